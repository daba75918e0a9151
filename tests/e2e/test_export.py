"""`allocation export`: CSV of what is on the books, that goes in again elsewhere."""

import csv
import io
import json
import sys
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert

from allocation.adapters.sql import database, migrations
from allocation.adapters.sql.tables import allocations, batches, products
from tests.servers.processes import Process

pytestmark = pytest.mark.long

Run = Callable[..., Process]
ALLOCATION = [sys.executable, "-m", "allocation"]

BATCHES = [
    ("b-1", "LAMP", 10, 3, None, None),
    ('b "2", red', "LÄMP", 5, 0, date(2030, 1, 31), None),
    ("b-3", "LAMP", 7, 7, date(2030, 2, 1), date(2031, 12, 31)),
    ("b-lost", "LAMP", 0, 0, None, None),
    ("=cmd|' -C calc'!A0", "LAMP", 1, 0, None, None),
    ("'-1", "LAMP", 1, 0, None, None),
    ("@x", "LAMP", 1, 0, None, None),
]
EXPORTED = """\
batchref,sku,qty,eta,best_before
''-1,LAMP,1,,
'=cmd|' -C calc'!A0,LAMP,1,,
'@x,LAMP,1,,
"b ""2"", red",LÄMP,5,2030-01-31,
b-1,LAMP,10,,
b-3,LAMP,7,2030-02-01,2031-12-31
"""
UNTIL = datetime(2030, 1, 1, 12, tzinfo=UTC)
LINES: list[dict[str, Any]] = [
    {"orderid": "o-1", "batchref": "b-1", "qty": 3, "customer": "+Ann, Bob"},
    {"orderid": "o-2", "batchref": "b-3", "qty": 4, "expires_at": UNTIL},
    {"orderid": "o-3", "batchref": "b-3", "qty": 1, "dispatched": True},
    {"orderid": "o-3", "part": 1, "qty": 2},
]


@pytest.fixture(params=["sqlite", "postgresql"])
def books(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database with batches and lines."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/books.db"
        migrations.upgrade(url)
    else:
        url = request.getfixturevalue("database_url")
    engine = database.engine(url)
    with engine.begin() as connection:
        for sku in ("LAMP", "LÄMP"):
            connection.execute(insert(products).values(sku=sku, version=1, sequence=0))
        names = ("batchref", "sku", "purchased", "allocated", "eta", "best_before")
        for batch in BATCHES:
            connection.execute(insert(batches).values(dict(zip(names, batch, strict=True))))
        for age, line in enumerate(LINES):
            promised = {"promised_at": age} if "batchref" in line else {}
            made = {"sku": "LAMP", "age": age, "told": True} | promised | line
            connection.execute(insert(allocations).values(made))
    engine.dispose()
    return url


@pytest.fixture
def allocation(processes: Callable[..., Process], state_dir: Path) -> Run:
    """Starts `allocation` with these arguments."""

    def start(*arguments: str | Path, command: list[str] = ALLOCATION, **changes: str) -> Process:
        env = {"ALLOCATION_STATE_DIR": str(state_dir)} | changes
        return processes([*command, *arguments], name=str(arguments[0]), env=env)

    return start


def test_the_batches_go_in_again_elsewhere(
    allocation: Run, processes: Callable[..., Process], books: str, state_dir: Path, tmp_path: Path
) -> None:
    """The same batches, less those of quantity 0: of these nothing can be promised."""
    file, again = tmp_path / "batches.csv", tmp_path / "again.csv"
    export = allocation("export", "batches", "-o", file, ALLOCATION_DATABASE_URL=books)
    assert export.wait() == 0
    assert export.logs() == "6 batches were exported; of quantity 0 and left out: 1.\n"
    assert file.read_text() == EXPORTED

    assert allocation("migrate").wait() == 0
    assert allocation("topology").wait() == 0
    celery = [sys.executable, "-m", "celery", "-A", "allocation"]
    env = {"ALLOCATION_STATE_DIR": str(state_dir)}
    worker = processes([*celery, "worker", "-c1", "--without-mingle"], name="worker", env=env)
    relay = allocation("relay")
    worker.wait_for_log(" ready", within=40)
    relay.wait_for_log("ready: relaying", within=40)
    assert allocation("import-batches", file).wait(60) == 0

    assert allocation("export", "batches", "-o", again).wait() == 0
    assert again.read_text() == EXPORTED


def test_the_lines_say_how_each_stands(allocation: Run, books: str) -> None:
    """On standard output, with nothing else on it."""
    export = allocation(
        *("-c", '"$@" 2>/dev/null', "--", *ALLOCATION, "export", "lines"),
        command=["bash"],
        ALLOCATION_DATABASE_URL=books,
    )

    assert export.wait() == 0
    until = UNTIL.isoformat()
    assert list(csv.reader(io.StringIO(export.logs()))) == [
        [
            *("orderid", "sku", "part", "qty", "status", "batchref", "eta", "expires_at"),
            *("customer", "priority", "not_before", "fresh_days", "dispatched_qty", "returned"),
        ],
        ["o-1", "LAMP", "0", "3", "allocated", "b-1", "", "", "'+Ann, Bob", "0", "", *"000"],
        ["o-2", "LAMP", "0", "4", "reserved", "b-3", "2030-02-01", until, "", "0", "", *"000"],
        ["o-3", "LAMP", "0", "1", "dispatched", "b-3", "2030-02-01", "", "", "0", "", *"010"],
        ["o-3", "LAMP", "1", "2", "waiting", "", "", "", "", "0", "", *"000"],
    ]


@pytest.mark.parametrize(("what", "exported", "left_out"), [("batches", 1, 0), ("lines", 0, 0)])
def test_one_products_are_counted_without_being_written(
    allocation: Run, books: str, what: str, exported: int, left_out: int, tmp_path: Path
) -> None:
    """With --dry-run, and told to programs."""
    file = tmp_path / "not-there.csv"
    export = allocation(
        *("export", what, "--sku", "LÄMP", "--dry-run", "--json", "--output", file),
        ALLOCATION_DATABASE_URL=books,
    )

    assert export.wait() == 0
    told = {"dry_run": True, "exported": exported, "left_out": left_out}
    assert json.loads(export.logs()) == told
    assert not file.exists()


@pytest.mark.parametrize("books", ["postgresql"], indirect=True)
def test_a_file_that_can_not_be_completed_is_not_there(
    allocation: Run, books: str, tmp_path: Path
) -> None:
    """What stood there before stays: here no file may grow past a kilobyte."""
    folder = tmp_path / "exports"
    folder.mkdir()
    file = folder / "batches.csv"
    file.write_text("of yesterday")
    engine = database.engine(books)
    with engine.begin() as connection:
        for number in range(200):
            row = {"batchref": f"more-{number}", "sku": "LAMP", "purchased": 1, "allocated": 0}
            connection.execute(insert(batches).values(row))
    engine.dispose()

    export = allocation(
        *("-c", 'ulimit -f 1; exec "$@"', "--", *ALLOCATION, "export", "batches", "-o", file),
        command=["bash"],
        ALLOCATION_DATABASE_URL=books,
    )

    assert export.wait() == 1
    assert "File too large; nothing was written" in export.logs()
    assert [(each.name, each.read_text()) for each in folder.iterdir()] == [
        ("batches.csv", "of yesterday")
    ]


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["--sku", "NONE"], 1, "no product has the sku NONE"),
        (["--output", "/nowhere/batches.csv"], 2, "/nowhere: No such file or directory"),
        (["--json"], 2, "name one with --output"),
    ],
)
@pytest.mark.parametrize("books", ["sqlite"], indirect=True)
def test_what_can_not_be_exported_is_said(
    allocation: Run, books: str, arguments: list[str], status: int, sentence: str
) -> None:
    """On one line, with the exit status of its kind."""
    export = allocation("export", "batches", *arguments, ALLOCATION_DATABASE_URL=books)

    assert export.wait() == status
    assert sentence in export.logs()
