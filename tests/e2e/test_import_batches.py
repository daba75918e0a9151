"""`allocation import-batches`: a file of batches goes in, and going in again changes nothing."""

import json
import os
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from typer.testing import Result

from tests.e2e.conftest import House
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

Run = Callable[..., Process]
Invoked = Callable[..., Result]
ALLOCATION = [sys.executable, "-m", "allocation"]
HEADER = "batchref,sku,qty,eta"


@pytest.fixture
def allocation(processes: Callable[..., Process], state_dir: Path) -> Run:
    """Starts `allocation` with these arguments, on the embedded default."""

    def start(*arguments: str | Path, **changes: str) -> Process:
        env = {"ALLOCATION_STATE_DIR": str(state_dir)} | changes
        return processes([*ALLOCATION, *arguments], name=str(arguments[0]), env=env)

    return start


@pytest.fixture
def at_work(allocation: Run, processes: Callable[..., Process], prepared: Path) -> None:
    """A worker and a relay of the embedded default, ready."""
    worker = processes(
        [sys.executable, "-m", "celery", "-A", "allocation", "worker", "-c1", "--without-mingle"],
        name="worker",
        env={"ALLOCATION_STATE_DIR": str(prepared)},
    )
    relay = allocation("relay")
    worker.wait_for_log("ready", within=60)
    relay.wait_for_log("ready: relaying", within=60)


@pytest.fixture
def ask(state_dir: Path) -> Callable[[str], list[tuple[Any, ...]]]:
    """The rows that a query finds in the embedded database."""

    def ask(query: str) -> list[tuple[Any, ...]]:
        with closing(sqlite3.connect(state_dir / "allocation.db", timeout=30)) as connection:
            found = connection.execute(query).fetchall()
            connection.commit()
            return found

    return ask


Ask = Callable[[str], list[tuple[Any, ...]]]


def saved(folder: Path, *lines: str, header: str = HEADER) -> Path:
    """A file of these lines."""
    file = folder / "batches.csv"
    file.write_text("\n".join([header, *lines]) + "\n")
    return file


def many(number: int) -> Iterable[str]:
    """As many different rows."""
    return (f"shipment-{row},SKU-{row % 7},{row % 50 + 1},2030-01-31" for row in range(number))


def summary(process: Process, *, status: int) -> dict[str, Any]:
    """What it told a program, once it ended with this status."""
    assert process.wait(100) == status
    return dict(json.loads(process.logs()))


def counted(*, rejected_rows: list[dict[str, Any]] | None = None, **counts: int) -> dict[str, Any]:
    """A summary with these counts, all others zero."""
    names = ("rows", "accepted", "known", "created", "rejected", "failed", "undecided")
    return {
        "dry_run": False,
        **dict.fromkeys(names, 0),
        **counts,
        "rejected_rows": rejected_rows or [],
    }


@pytest.mark.usefixtures("at_work")
def test_each_row_becomes_a_batch(allocation: Run, ask: Ask, tmp_path: Path) -> None:
    """Whatever the order of the columns, from a spreadsheet: byte order mark, CRLF, quotes."""
    file = tmp_path / "batches.csv"
    file.write_bytes(
        b"\xef\xbb\xbfsku,eta,qty,batchref,best_before\r\n"
        b"LAMP,2030-01-31,5,shipment-1,2031-12-31\r\n"
        b'"CHAIR, RED",,7,"the ""second""",\r\n'
        b"\r\n"
        b"L\xc3\x84UFER,2030-02-01,1,shipment-3,"
    )

    told = summary(allocation("import-batches", file, "--json"), status=0)

    assert told == counted(rows=3, accepted=3, created=3)
    columns = "batchref, sku, purchased, eta, best_before"
    assert ask(f"SELECT {columns} FROM batches ORDER BY batchref") == [
        ("shipment-1", "LAMP", 5, "2030-01-31", "2031-12-31"),
        ("shipment-3", "LÄUFER", 1, "2030-02-01", None),
        ('the "second"', "CHAIR, RED", 7, None, None),
    ]


def test_many_rows_are_created_on_postgresql_and_rabbitmq(house: House, tmp_path: Path) -> None:
    """In several transactions; the eta column may be missing."""
    lines = [f"shipment-{row},SKU-{row % 7},5" for row in range(600)]
    file = saved(tmp_path, *lines, header="batchref,sku,qty")
    command = [*ALLOCATION, "import-batches", str(file), "--json"]

    told = summary(house.start(command, name="import", env=house.environment), status=0)

    assert told == counted(rows=600, accepted=600, created=600)
    with house.engine.connect() as connection:
        created = connection.execute(text("SELECT count(*), sum(purchased) FROM batches")).one()
    assert tuple(created) == (600, 3000)


@pytest.mark.usefixtures("at_work")
def test_the_same_file_again_changes_nothing_and_tells_the_same(
    allocation: Run, ask: Ask, tmp_path: Path
) -> None:
    """Also a refused row; only that all of it was known."""
    file = saved(tmp_path, "first,LAMP,5,", "second,LAMP,5,", "first,LAMP,6,", "first,LAMP,05,")
    everything = "SELECT * FROM batches, commands, outbox ORDER BY 1, commands.id, position"

    first = summary(allocation("import-batches", file, "--json"), status=1)
    # The row that is refused where it stands is handed over once the one above is decided.
    second = summary(allocation("import-batches", file, "--json"), status=1)
    eventually(lambda: ask("SELECT min(sent_at IS NOT NULL) FROM outbox") == [(1,)])
    before = ask(everything)
    third = summary(allocation("import-batches", file, "--json"), status=1)

    refused = [{"line": 4, "field": "batchref", "reason": "batchref taken"}]
    result: dict[str, Any] = {"rows": 4, "created": 3, "rejected": 1, "rejected_rows": refused}
    assert first == counted(accepted=2, known=1, **result)
    assert second == counted(accepted=1, known=3, **result)
    assert third == counted(known=4, **result)
    assert ask(everything) == before


@pytest.mark.usefixtures("prepared")
def test_killed_in_the_middle_and_run_again_every_row_is_there_once(
    allocation: Run, ask: Ask, tmp_path: Path
) -> None:
    """What was handed over before the kill is known."""
    lines = list(many(1200))
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    first = allocation("import-batches", pipe, "--no-wait")
    with pipe.open("w") as writer:
        writer.write("\n".join([HEADER, *lines[:700]]))
        writer.flush()
        eventually(lambda: ask("SELECT count(*) FROM commands") == [(500,)], within=30)
        first.kill()

    again = allocation("import-batches", saved(tmp_path, *lines), "--no-wait", "--json")

    told = summary(again, status=0)
    assert told == counted(rows=1200, accepted=700, known=500, undecided=1200)
    counts = "SELECT (SELECT count(*) FROM commands), count(*), count(DISTINCT id) FROM outbox"
    assert ask(counts) == [(1200, 1200, 1200)]


@pytest.mark.usefixtures("prepared")
def test_ctrl_c_says_what_was_handed_over(allocation: Run, ask: Ask, tmp_path: Path) -> None:
    """And that it may be run again."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    importing = allocation("import-batches", pipe)
    with pipe.open("w") as writer:
        writer.write("\n".join([HEADER, *many(700)]))
        writer.flush()
        eventually(lambda: ask("SELECT count(*) FROM outbox") == [(500,)], within=30)

        status = importing.stop(by=signal.SIGINT)

    assert status == 130
    assert importing.logs() == (
        "allocation: interrupted; 500 rows were sent so far. Run the same command again to"
        " continue:"
        " no row takes effect twice\n"
    )


@pytest.mark.usefixtures("at_work")
def test_refused_rows_are_written_to_a_file_that_can_be_mended_and_imported(
    allocation: Run, tmp_path: Path
) -> None:
    """By a rule or by the contract, each behind its line and the reason."""
    assert allocation("import-batches", saved(tmp_path, "taken,LAMP,5,")).wait(60) == 0
    file = saved(tmp_path, "new,LAMP,5,", "taken,LAMP,6,", "bad,LAMP,many,2030-01-31")
    wrong = tmp_path / "wrong.csv"

    told = allocation("import-batches", file, "--rejected", wrong)
    assert told.wait(60) == 1
    written = wrong.read_text()
    wrong.write_text(written.replace("taken,LAMP", "free,LAMP").replace(",many,", ",3,"))
    mended = summary(allocation("import-batches", wrong, "--json"), status=0)

    assert sorted(written.splitlines()) == [
        "3,batchref: batchref taken,taken,LAMP,6,",
        "4,qty: is not a whole number,bad,LAMP,many,2030-01-31",
        "line,reason,batchref,sku,qty,eta",
    ]
    assert "3 rows: 1 created, 2 rejected." in told.logs()
    assert mended == counted(rows=2, accepted=2, created=2)


@pytest.mark.usefixtures("at_work")
def test_what_a_spreadsheet_in_europe_writes_is_imported_and_its_rejected_rows_open_there(
    allocation: Run, ask: Ask, tmp_path: Path
) -> None:
    """Semicolons, decimals, local dates, a column of its own, empty rows and columns."""
    file = tmp_path / "batches.csv"
    file.write_bytes(
        b"\xef\xbb\xbfBatchref;SKU;Qty;ETA;Note;\r\n"
        b"e11;E11;5,00;31.12.2030;x;\r\ne12;E12;1.000;;y;\r\n;;;;;\r\n"
    )
    wrong = tmp_path / "wrong.csv"

    told = allocation("import-batches", file, "--dates", "day-first", "--rejected", wrong)

    assert told.wait(60) == 1
    assert told.logs().startswith(f"allocation: {file}: the column Note is ignored\n")
    assert "2 rows: 1 created, 1 rejected." in told.logs()
    assert ask("SELECT batchref, sku, purchased, eta FROM batches") == [
        ("e11", "E11", 5, "2030-12-31")
    ]
    reason = "qty: 1.000 may have a thousands separator or decimals: write 1000 if it is that many"
    assert wrong.read_bytes().decode("utf-8-sig").splitlines() == [
        "line;reason;batchref;sku;qty;eta;Note;",
        f"3;{reason};e12;E12;1.000;;y;",
    ]


def test_wrong_rows_are_told_by_line_and_field_and_a_dry_run_saves_nothing(
    invoked: Invoked, state_dir: Path, tmp_path: Path
) -> None:
    """Each by itself: the rows between them are good. Not even a database is made."""
    file = tmp_path / "batches.csv"
    file.write_bytes(
        b"batchref,sku,qty,eta\n"
        b"good-1,LAMP,5,\n"
        b'"open,LAMP,5,\n'
        b"good-2,LAMP,5,\n"
        b'"stray"x,LAMP,5,\n'
        b"latin-1,L\xc4UFER,5,\n"
        b"half,LAMP,2.5,\n"
        b"none,LAMP,0,\n"
        b"huge,LAMP,99999999999999999999999999,\n"
        b"a\xe2\x80\x8bblank,LAMP,5,\n"
        b",LAMP,5,\n"
        b"late,LAMP,5,tomorrow\n"
        b"short,LAMP\n"
        b"long,LAMP,5,,more\n" + b"endless" * 30_000 + b",LAMP,5,\ngood-3,LAMP,5,2030-01-31"
    )

    ended = invoked("import-batches", file, "--dry-run", "--json")

    assert ended.exit_code == 1
    told = json.loads(ended.output)
    assert [tuple(row.values()) for row in told["rejected_rows"]] == [
        (3, "", "a quote is not closed on its line"),
        (5, "", "wrong quoting: ',' expected after '\"'"),
        (6, "sku", "is not UTF-8: save the file as CSV UTF-8"),
        (7, "qty", "is not a whole number"),
        (8, "qty", "the value is less than the minimum of 1"),
        (9, "qty", "the value is greater than the maximum of 2147483647"),
        (10, "batchref", "has an invisible character U+200B"),
        (11, "batchref", "the value is shorter than 1 character"),
        (12, "eta", "is not a date: write YYYY-MM-DD"),
        (13, "qty", "is empty"),
        (14, "", "the header names no column 5, which has the value more"),
        (15, "", "the line has more than 65536 characters"),
    ]
    assert (told["dry_run"], told["rows"], told["rejected"]) == (True, 15, 12)
    assert list(state_dir.iterdir()) == []


def test_the_terminal_shows_the_first_twenty_rejected_rows(
    invoked: Invoked, tmp_path: Path
) -> None:
    """And how many more there are."""
    file = saved(tmp_path, *[f"batch-{row},LAMP,none," for row in range(23)])

    told = invoked("import-batches", file, "--dry-run")

    assert told.exit_code == 1
    lines = told.output.splitlines()
    assert lines[0] == "23 rows: 0 can be imported, 23 rejected."
    assert [line.split()[0] for line in lines[2:22]] == [str(line) for line in range(2, 22)]
    assert lines[22:] == ["... and 3 more: `--rejected FILE` writes all of them."]


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"", "line 1 is empty: it must name the columns, batchref,sku,qty,eta,best_before"),
        (b"batchref,qty\n", "line 1: the column sku is missing"),
        (b"batchref,sku,qty,qty\n", "line 1: the column qty appears twice"),
        (b'"batchref,sku,qty\n', "line 1: a quote is not closed on its line"),
        ("batchref,sku,qty\n".encode("utf-16-be"), "line 1 has NUL characters, as in UTF-16"),
    ],
)
def test_a_file_without_the_header_is_refused_as_a_whole(
    invoked: Invoked, tmp_path: Path, content: bytes, sentence: str
) -> None:
    """Exit status 2, and the line and the column are named."""
    file = tmp_path / "batches.csv"
    file.write_bytes(content)

    told = invoked("import-batches", file, "--dry-run")

    assert told.exit_code == 2
    assert told.output.startswith(f"allocation: {file}: {sentence}")


def test_a_file_that_is_not_there_ends_with_status_2(invoked: Invoked, tmp_path: Path) -> None:
    """In one sentence."""
    told = invoked("import-batches", tmp_path / "none.csv")

    assert told.exit_code == 2
    assert told.output == f"allocation: {tmp_path}/none.csv: No such file or directory\n"


def test_the_file_that_is_read_is_never_written_to(invoked: Invoked, tmp_path: Path) -> None:
    """As the file of the rejected rows."""
    file = saved(tmp_path, "first,LAMP,none,")
    before = file.read_text()

    told = invoked("import-batches", file, "--rejected", file, "--dry-run")

    assert told.exit_code == 2
    assert file.read_text() == before


def test_standard_input_is_read_where_the_file_is_a_dash(
    processes: Callable[..., Process], state_dir: Path, tmp_path: Path
) -> None:
    """As from a pipe."""
    file = saved(tmp_path, *many(3))
    command = 'cat "$0" | "$@"'

    told = processes(
        ["sh", "-c", command, file, *ALLOCATION, "import-batches", "-", "--dry-run"],
        name="import-batches",
        env={"ALLOCATION_STATE_DIR": str(state_dir)},
    )

    assert told.wait(60) == 0
    assert told.logs() == "3 rows: 3 can be imported, 0 rejected.\n"


@pytest.mark.usefixtures("prepared")
def test_while_too_much_is_pending_it_pauses_and_then_goes_on(
    allocation: Run, ask: Ask, tmp_path: Path
) -> None:
    """At half of what the API puts commands off at."""
    limits = {"ALLOCATION_MAX_PENDING": "1000", "ALLOCATION_MAX_OUTBOX_AGE": "3600"}
    file = saved(tmp_path, *many(1600))
    patient = allocation("import-batches", file, "--no-wait", "--wait", "100", "--json", **limits)
    eventually(lambda: ask("SELECT count(*) FROM commands") == [(1000,)], within=40)
    impatient = allocation("import-batches", file, "--no-wait", "--wait", "0", **limits)
    assert impatient.wait(60) == 1

    paused = ask("SELECT count(*) FROM commands")
    was_running = patient.running
    ask("UPDATE commands SET status = 'succeeded', outcome = '{}'")
    eventually(lambda: ask("SELECT count(*) FROM commands") == [(1600,)], within=40)

    assert "commands are pending. Are worker and relay running?" in impatient.logs()
    assert paused == [(1000,)]
    assert was_running
    assert summary(patient, status=0)["rows"] == 1600


@pytest.mark.usefixtures("prepared")
def test_without_a_worker_it_stops_waiting_and_tells_what_is_undecided(
    invoked: Invoked, tmp_path: Path
) -> None:
    """And how to look again."""
    told = invoked("import-batches", saved(tmp_path, *many(3)), "--wait", "0.2")

    assert told.exit_code == 1
    assert told.output == (
        "3 rows: 0 created, 0 rejected, 3 undecided.\n"
        "allocation: no progress for 0.2 seconds: the last rows are undecided. Are worker and"
        " relay running? `allocation status` shows what is pending; 3 rows were sent so far."
        " Run the same command again to continue: no row takes effect twice\n"
    )


def test_a_database_that_is_away_is_said_in_one_sentence(invoked: Invoked, tmp_path: Path) -> None:
    """Without a traceback, and without the password."""
    url = "postgresql://me:secret@127.0.0.1:1/none"

    told = invoked("import-batches", saved(tmp_path, *many(3)), ALLOCATION_DATABASE_URL=url)

    assert told.exit_code == 1
    assert told.output.startswith(
        "allocation: the database at postgresql://me:**@127.0.0.1:1/none does not respond: "
    )
    assert "Traceback" not in told.output
    assert "secret" not in told.output


def test_many_times_the_rows_take_no_more_memory(
    processes: Callable[..., Process], state_dir: Path, tmp_path: Path
) -> None:
    """Nothing but a chunk of rows is held."""
    program = (
        "import resource, subprocess, sys;"
        "subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )

    def most_memory(rows: int) -> int:
        """Of a dry run, in KiB."""
        file = saved(tmp_path, *many(rows))
        command = [sys.executable, "-c", program, *ALLOCATION, "import-batches", "--dry-run", file]
        run = processes(command, name="memory", env={"ALLOCATION_STATE_DIR": str(state_dir)})
        assert run.wait(100) == 0
        return int(run.logs())

    few, lots = most_memory(2_000), most_memory(50_000)

    assert lots < few + 8_192
