"""How each command ends: 0 done, 1 failed or does not hold, 2 wrong usage; errors on stderr."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from typer.main import get_command
from typer.testing import CliRunner, Result

from allocation.__main__ import command_line
from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import api_keys
from allocation.entrypoints.cli.keys import Scope
from allocation.messaging.connection import SPOOL_TRANSPORT
from tests.servers.processes import ROOT, clean_environment


@pytest.fixture(autouse=True)
def embedded(state_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The embedded default in a folder of the test's own, neither migrated nor declared."""
    for name in list(os.environ):
        if name.startswith("ALLOCATION_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("ALLOCATION_STATE_DIR", str(state_dir))


def run(*arguments: str) -> Result:
    return CliRunner().invoke(command_line(), list(arguments), catch_exceptions=False)


def prepared() -> None:
    for command in ("migrate", "topology"):
        assert run(command).exit_code == 0


MISUSED = [
    (["stauts"], "Did you mean 'status'?"),
    (["dead", "lst"], "Did you mean 'list'?"),
    (["status", "--wach"], "--watch"),
    (["status", "--watch", "--json"], "--watch and --json can't be used together"),
    (["dead", "list", "--queue", "x"], "there are allocation.dead, allocation.inbound.dead, "),
    (["dead", "show"], "Missing argument"),
    (["dead", "replay"], "choose dead letters by ids, --queue, --reason, --name, or --all"),
    (["dead", "drop", "--yes"], "choose dead letters by ids, --queue, --reason, --name, or --all"),
    (["replay", "--queue", "warehouse.events", "--since", "soon"], "--since soon is not a time"),
    (["replay", "--queue", "allocation.commands"], "is not a queue for events"),
    (["keys", "create", "a\nb"], "1 to 100 printable characters"),
    (["keys", "create", "shop", "--scope", "all"], "Invalid value for '--scope'"),
    (["export", "batches", "--json"], "name one with --output"),
    (["export", "lines", "--output", "/nowhere/lines.csv"], "/nowhere: No such file or directory"),
    (["import-batches", "/nowhere/batches.csv"], "/nowhere/batches.csv: No such file or directory"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"), MISUSED, ids=[" ".join(case[0][:4]) for case in MISUSED]
)
def test_wrong_usage_ends_with_2_and_says_what_is_right(
    arguments: list[str], sentence: str
) -> None:
    """Nothing on standard output."""
    if arguments[0] == "export":
        prepared()

    ended = run(*arguments)

    assert (ended.exit_code, ended.stdout) == (2, "")
    assert sentence in ended.stderr


def test_a_wrong_column_ends_with_2_and_names_the_right_ones(tmp_path: Path) -> None:
    """As the file can't be read."""
    file = tmp_path / "batches.csv"
    file.write_text("batchref,sku,quantity\nb1,LAMP,3\n")

    ended = run("import-batches", str(file), "--dry-run")

    assert (ended.exit_code, ended.stdout) == (2, "")
    assert (
        "line 1: the column qty is missing; the header has batchref, sku, quantity" in ended.stderr
    )


FAILED = [
    (["dead", "show", "nobody"], "no dead letter has the id nobody"),
    (["dead", "replay", "nobody"], "no dead letter matches"),
    (["replay", "--queue", "nobody.events"], "there is no queue nobody.events"),
    (["replay", "--queue", "warehouse.events", "--sku", "X"], "no product has the sku X"),
    (["export", "lines", "--sku", "X"], "no product has the sku X"),
    (["keys", "revoke", "nobody"], "no valid key has the id nobody"),
]


@pytest.mark.parametrize(
    ("arguments", "sentence"), FAILED, ids=[" ".join(case[0]) for case in FAILED]
)
def test_what_is_not_there_ends_with_1_and_one_sentence(
    arguments: list[str], sentence: str
) -> None:
    """Nothing on standard output."""
    prepared()

    ended = run(*arguments)

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert sentence in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


LOOKS = [
    ["status"],
    ["check"],
    ["keys", "list"],
    ["keys", "create", "shop"],
    ["dead", "list"],
    ["export", "lines"],
    ["replay", "--queue", "warehouse.events"],
    ["prune", "--dry-run"],
]


@pytest.mark.parametrize("arguments", LOOKS, ids=[" ".join(each[:2]) for each in LOOKS])
def test_to_look_at_a_service_that_never_ran_says_so_and_leaves_no_files(
    arguments: list[str], state_dir: Path
) -> None:
    state_dir.rmdir()

    ended = run(*arguments)

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "the service does not run here: the " in ended.stderr
    assert "does not exist yet; `allocation up` starts everything" in ended.stderr
    assert not state_dir.exists()


@pytest.mark.parametrize("arguments", [["status"], ["check"], ["keys", "list"]])
def test_without_the_schema_each_command_names_the_one_that_makes_it(
    arguments: list[str], state_dir: Path
) -> None:
    """It is not as if the database gave no answer."""
    (state_dir / "allocation.db").touch()

    ended = run(*arguments)

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "lacks the schema of this version: run `allocation migrate`" in ended.stderr


def test_postgresql_says_it_in_other_words(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sentence is the same."""
    monkeypatch.setenv("ALLOCATION_DATABASE_URL", empty_database_url)

    ended = run("status")

    assert (ended.exit_code, ended.stdout) == (1, "")
    assert "lacks the schema of this version: run `allocation migrate`" in ended.stderr


def test_programs_are_told_what_migrate_and_topology_made() -> None:
    """The revision of the schema, every queue, and the users, of which the default has none."""
    migrated, declared = run("migrate", "--json"), run("topology", "--json")

    assert (migrated.exit_code, declared.exit_code) == (0, 0)
    assert json.loads(migrated.stdout)["schema"].isdigit()
    assert json.loads(declared.stdout) == {"queues": topology.names(), "users": []}


@pytest.fixture
def letter(state_dir: Path) -> dict[str, Any]:
    """A dead letter of the warehouse's, as programs are told of it."""
    prepared()
    headers = {
        "x-reason": "unreadable",
        "x-error": "no JSON",
        "x-first": "2029-01-31T12:00:00+00:00",
        "x-last": "2029-01-31T12:00:00+00:00",
    }
    with Connection(f"spool://{state_dir}/spool", transport=SPOOL_TRANSPORT) as connection:
        connection.Producer().publish(
            b"\xff{",
            routing_key="warehouse.events.dead",
            headers=headers,
            message_id="letter-1",
            type="allocation.reservation_released.v1",
            content_encoding="binary",
        )
    [summary] = json.loads(run("dead", "list", "--each", "--json").stdout)
    return dict(summary) | {"headers": headers, "body": "\\xff{"}


def test_programs_are_told_all_of_a_dead_letter(letter: dict[str, Any]) -> None:
    """Its times as they were written, its body as far as it is text."""
    shown = run("dead", "show", letter["id"], "--json")

    assert shown.exit_code == 0, shown.stderr
    [told] = json.loads(shown.stdout)
    told["headers"] = {name: told["headers"][name] for name in letter["headers"]}
    assert told == letter
    assert told["first"] == "2029-01-31T12:00:00+00:00"


def every_command(command: Any = None, path: str = "") -> Iterator[str]:
    """The program itself and each of its commands and groups, as people call them."""
    command = command or get_command(command_line())
    yield path
    for name, inner in getattr(command, "commands", {}).items():
        yield from every_command(inner, f"{path} {name}".strip())


@pytest.mark.parametrize("option", ["--help", "-h"])
@pytest.mark.parametrize("command", every_command())
def test_help_shows_no_type_for_a_flag(command: str, option: str) -> None:
    helped = run(*command.split(), option)

    assert helped.exit_code == 0
    assert "<bool>" not in helped.stdout
    assert "Show this message and exit." in helped.stdout


def test_help_groups_the_commands_in_the_order_of_use() -> None:
    panels = re.findall(r"╭─ ([^─]+) ─", run("--help").stdout)

    assert panels == [
        "Options",
        "Try it",
        "Set it up",
        "Run one process",
        "Stock in and out",
        "Look after it",
        "Describe it",
    ]


def test_the_version_is_that_of_the_package() -> None:
    assert run("--version").stdout == f"allocation {metadata.version('allocation')}\n"


def test_help_of_every_command_imports_nothing_that_only_its_work_needs() -> None:
    # Typer itself has pydantic, to read values.
    heavy = (
        "sqlalchemy celery kombu amqp flask pydantic_settings alembic structlog gunicorn"
        " prometheus_client jsonschema_rs tenacity"
    )
    program = (
        "import sys; from typer.testing import CliRunner\n"
        "from allocation.__main__ import command_line\n"
        "app = command_line()\n"
        "for command in sys.stdin.read().splitlines():\n"
        "    assert CliRunner().invoke(app, [*command.split(), '--help']).exit_code == 0, command\n"
        f"print([name for name in '{heavy}'.split() if name in sys.modules])"
    )
    commands = list(every_command())

    helped = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(commands),
        env=clean_environment(),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )

    assert {"", "up", "keys", "keys create", "dead drop", "export lines"} < set(commands)
    assert helped.stdout == "[]\n"


def test_the_scopes_that_are_offered_are_those_of_keys() -> None:
    assert set(Scope) == set(api_keys.SCOPES)


@pytest.mark.parametrize(
    "arguments",
    [
        ["openapi"],
        ["status", "--watch"],
        ["check"],
        ["dead", "list"],
        ["export", "lines"],
        ["demo"],
    ],
    ids=" ".join,
)
def test_a_command_whose_output_nobody_reads_ends_with_141(
    arguments: list[str], state_dir: Path
) -> None:
    """As programs that SIGPIPE ends do, and without a traceback."""
    if arguments[0] not in ("openapi", "demo"):
        prepared()
    reading, writing = os.pipe()
    os.close(reading)

    ended = subprocess.run(
        [sys.executable, "-m", "allocation", *arguments],
        env=clean_environment() | {"ALLOCATION_STATE_DIR": str(state_dir)},
        cwd=ROOT,
        stdout=writing,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )
    os.close(writing)

    assert (ended.returncode, ended.stderr) == (141, "")


def complete(line: str, word: int, **changes: str) -> "subprocess.CompletedProcess[str]":
    """What bash is offered for the word of this number."""
    return subprocess.run(
        [sys.executable, "-m", "allocation"],
        env=clean_environment()
        | {"_ALLOCATION_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(word)}
        | changes,
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.parametrize(
    ("line", "word", "offered"),
    [
        ("allocation ex", 1, ["export"]),
        ("allocation export ", 2, ["batches", "lines"]),
        ("allocation dead list --queue al", 4, ["allocation.dead", "allocation.inbound.dead"]),
        ("allocation replay --queue ", 3, ["warehouse.events", "notification.events"]),
    ],
)
def test_the_shell_completes_commands_and_queues(line: str, word: int, offered: list[str]) -> None:
    """Without a database or a broker."""
    assert complete(line, word).stdout.split() == offered


def test_the_shell_completes_though_a_setting_is_wrong() -> None:
    """And nothing is printed into the line that is being typed."""
    completed = complete("allocation sta", 1, ALLOCATION_PORT="http")

    assert (completed.returncode, completed.stdout.split(), completed.stderr) == (0, ["status"], "")
