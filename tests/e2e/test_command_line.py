"""The command line as people meet it, on the embedded default."""

import fcntl
import json
import os
import pty
import re
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import termios
import threading
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from kombu import Connection
from typer.testing import Result

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import audit
from allocation.messaging.connection import SPOOL_TRANSPORT
from tests.e2e.test_flower import ask
from tests.scraping import exported, names, page
from tests.servers.ports import free_ports, free_row
from tests.servers.processes import ROOT, Process, clean_environment
from tests.waiting import eventually

pytestmark = pytest.mark.long

Run = Callable[..., Process]
Invoked = Callable[..., Result]


@pytest.fixture
def environment(state_dir: Path) -> dict[str, str]:
    """The embedded default in a folder of the test's own."""
    port, flower = free_ports(2)
    return {
        "ALLOCATION_STATE_DIR": str(state_dir),
        "ALLOCATION_PORT": str(port),
        "ALLOCATION_FLOWER_PORT": str(flower),
    }


@pytest.fixture
def allocation(processes: Callable[..., Process], environment: dict[str, str]) -> Run:
    """Starts `allocation` with these arguments."""

    def start(*arguments: str, **changes: str) -> Process:
        command = [sys.executable, "-m", "allocation", *arguments]
        return processes(command, name=arguments[0], env=environment | changes)

    return start


LETTER = "7f1f6f0a-2b8e-4a57-9a3c-0d8f6c1b7a52"
LONG_NAME = "allocation.reservation_released.v1"


def put_dead_letter(state_dir: Path) -> None:
    """One that the warehouse could not read, two hours ago."""
    then = (datetime.now(UTC) - timedelta(hours=2, minutes=5)).isoformat()
    headers = {"id": LETTER, "task": LONG_NAME, "x-reason": "unreadable"}
    with Connection(f"spool://{state_dir}/spool", transport=SPOOL_TRANSPORT) as connection:
        connection.Producer().publish(
            *(b"{}", "warehouse.events.dead"),
            headers=headers | {"x-first": then, "x-last": then},
        )


def on_terminal(
    environment: dict[str, str], *arguments: str, columns: int = 80
) -> AbstractContextManager[tuple["subprocess.Popen[bytes]", Callable[[], str]]]:
    """`allocation` on a terminal of its own, as `screen_of`."""
    command = [sys.executable, "-m", "allocation", *arguments]
    return screen_of(command, environment, columns=columns)


@contextmanager
def screen_of(
    command: list[str], environment: dict[str, str], *, columns: int = 80
) -> Iterator[tuple["subprocess.Popen[bytes]", Callable[[], str]]]:
    """The command on a terminal of its own, and what it has written there, less the colours."""
    master, slave = pty.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
    written: list[bytes] = []

    def read() -> None:
        with suppress(OSError):  # the terminal is closed
            while data := os.read(master, 65_536):
                written.append(data)

    process = subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        env=clean_environment() | environment | {"TERM": "xterm"},
        cwd=ROOT,
        start_new_session=True,
    )
    os.close(slave)
    reader = threading.Thread(target=read)
    reader.start()
    try:
        yield process, lambda: re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", b"".join(written).decode())
    finally:
        process.kill()
        process.wait()
        reader.join(10)
        os.close(master)


def test_the_demo_plays_the_whole_story(allocation: Run) -> None:
    """And ends with the proof of the books."""
    demo = allocation("demo")

    assert demo.wait(100) == 0
    told = demo.logs()
    assert "moved to batch late" in told
    assert "`make up` (or `allocation up`) keeps the service running" in told
    assert "then open its page, http://127.0.0.1:" in told
    assert "order-1 from early cancelled, order-1 from late expected, order-2 from new open" in told
    assert "New day for order order-1: arrives 2030-09-01" in told
    assert "The warehouse's pick of order-3 is dispatched." in told
    assert "The customer of order-3 sends 1 piece back" in told
    assert told.count("\n  holds  ") == len(audit.INVARIANTS)


@dataclass
class Up:
    """An `up` that runs: what it said until it was ready, its settings, and ports of metrics."""

    said: str
    environment: dict[str, str]
    metrics: dict[str, int]


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    """One for the tests that leave it running: a start costs 20 s of the processor's time."""
    folder = tmp_path_factory.mktemp("up")
    port, flower = free_ports(2)
    names = ("worker", "relay", "inbound", "warehouse", "notification")
    first = free_row(len(names))
    environment = {
        "ALLOCATION_STATE_DIR": str(folder),
        "ALLOCATION_PORT": str(port),
        "ALLOCATION_FLOWER_PORT": str(flower),
        "ALLOCATION_METRICS_PORT": str(first),
    }
    command = [sys.executable, "-m", "allocation", "up"]
    process = Process(command, log=folder / "up.log", env=environment).start()
    try:
        process.wait_for_log("metrics of notification", within=60)
        yield Up(process.logs(), environment, dict(zip(names, count(first), strict=False)))
    finally:
        process.stop()


def test_up_starts_everything_and_stops_it_cleanly(
    allocation: Run, environment: dict[str, str]
) -> None:
    """Each process says that it is ready; Ctrl-C ends all with status 0.

    A login for Flower that was configured holds, and is not printed.
    """
    up = allocation("up", FLOWER_BASIC_AUTH="me:of-my-own")
    up.wait_for_log("Flower  http", within=60)
    flower = int(environment["ALLOCATION_FLOWER_PORT"])
    assert ask(flower, "/api/tasks", "me:of-my-own")[0] == 200
    assert f"Flower  http://127.0.0.1:{flower}/\n" in up.logs()
    assert "of-my-own" not in up.logs()
    for line in (
        "api .*ready at",
        "relay .*ready: relaying",
        "inbound .*ready: consuming",
        "worker .*ready",
        "warehouse .*ready: consuming",
        "notification .*ready: consuming",
    ):
        up.wait_for_log(line)

    assert up.stop(by=signal.SIGINT, within=40) == 0
    names = ("api", "worker", "relay", "inbound", "warehouse", "notification", "flower")
    for name in names:
        up_log = up.logs()
        assert f"{name} stopped (rc=0)" in up_log


@pytest.mark.xdist_group("up")
def test_up_prints_where_everything_is_and_flower_shows_what_came_by_http(up: Up) -> None:
    """Flower asks for the password of this run, which nobody else knows."""
    port, flower = (int(up.environment[f"ALLOCATION_{name}"]) for name in ("PORT", "FLOWER_PORT"))

    said, _, last = up.said.partition("Everything is ready; Ctrl-C stops it.\n")
    printed = [line.strip() for line in last.splitlines()]
    password = printed[2].rpartition(" ")[2].removesuffix(")")
    assert printed == [
        f"page    http://127.0.0.1:{port}/",
        f"docs    http://127.0.0.1:{port}/docs, of the messages http://127.0.0.1:{port}/docs/events",
        f"Flower  http://127.0.0.1:{flower}/ (user allocation, password {password})",
        *(f"metrics of {name} http://127.0.0.1:{its}/metrics" for name, its in up.metrics.items()),
    ]
    # A line for each process that says more than that it is ready would hide what matters.
    assert [
        line for line in said.splitlines() if not re.search(r"ready|starting|Connected", line)
    ] == []
    login = f"allocation:{password}"
    # It shows what comes from when it listens on.
    eventually(
        lambda: any(ask(flower, "/api/workers?status=true", login)[1].values()),
        within=20,
        what="the worker online in Flower",
    )
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/batches",
        data=b'{"batchref": "b1", "sku": "LAMP", "qty": 10}',
        headers={"Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        location = str(answer.headers["Location"])
    path = f"/api/task/info/{location.rpartition('/')[2]}"

    def shown() -> dict[str, object] | None:
        return ask(flower, path, login)[1]

    task = eventually(shown, within=20, what="the command in Flower")
    assert task["name"] == "allocation.create_batch"
    assert task["kwargs"] == "{'batchref': 'b1', 'sku': 'LAMP', 'qty': 10, 'eta': None}"
    assert [ask(flower, path, wrong)[0] for wrong in (None, "allocation:password")] == [401] * 2


@pytest.mark.xdist_group("up")
def test_up_gives_each_process_a_port_for_its_metrics(up: Up, promtool: Callable[..., str]) -> None:
    """Counting up from the one that is set. Prometheus's own checker finds no fault in any page."""
    served = up.metrics
    port = int(up.environment["ALLOCATION_PORT"])
    body = {"orderid": "order-1", "sku": "LAMP", "qty": 1}
    post = urllib.request.Request(
        f"http://127.0.0.1:{port}/v1/allocations",
        data=json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    urllib.request.urlopen(post, timeout=10).close()
    pages = {name: page(port) for name, port in (served | {"api": port}).items()}

    assert {name: shown(text) for name, text in pages.items()} == exported()
    for text in pages.values():
        assert promtool("check", "metrics", said=text) == ""


def shown(text: str) -> set[str]:
    """A page's series, without those of the process itself."""
    return {name for name in names(text) if not name.startswith("process_")}


def test_up_starts_nothing_where_a_port_is_taken(
    allocation: Run, environment: dict[str, str], state_dir: Path
) -> None:
    """One sentence names the port and its setting, and nothing was written."""
    taken = {name: environment[name] for name in ("ALLOCATION_PORT", "ALLOCATION_FLOWER_PORT")}
    for name, what in zip(taken, ("the API", "Flower"), strict=True):
        with socket.create_server(("127.0.0.1", int(taken[name]))):
            up = allocation("up")

            assert up.wait(60) == 1
        assert up.logs() == (
            f"allocation: {what} can't listen on 127.0.0.1:{taken[name]}: Address already in use;"
            f" stop the program that uses the port, or set {name} to another port\n"
        )
    assert list(state_dir.iterdir()) == []


def test_two_up_do_not_share_a_folder_and_a_closed_pipe_ends_the_one_that_runs(
    allocation: Run, environment: dict[str, str], state_dir: Path
) -> None:
    """The second one ends with a sentence. When the first has ended, nothing of it is left."""
    other_ports = dict(
        zip(("ALLOCATION_PORT", "ALLOCATION_FLOWER_PORT"), free_ports(2), strict=True)
    )
    reading, writing = os.pipe()
    first = subprocess.Popen(
        [sys.executable, "-m", "allocation", "up"],
        stdout=writing,
        stderr=subprocess.STDOUT,
        env=clean_environment() | environment,
        cwd=ROOT,
    )
    os.close(writing)
    try:
        with os.fdopen(reading) as pipe:
            assert any("is ready; Ctrl-C" in line for line in pipe)
            second = allocation("up", **{name: str(port) for name, port in other_ports.items()})

            assert second.wait(60) == 1
            assert first.poll() is None
        assert first.wait(60) == 0
    finally:
        first.terminate()
    assert second.logs() == (
        f"allocation: another `allocation up` uses the folder {state_dir} (process {first.pid}, or"
        " processes that it started): stop it, or choose another folder with"
        " ALLOCATION_STATE_DIR\n"
    )
    with (state_dir / "up.lock").open() as lock:  # which every process of `up` inherits
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_check_ends_with_status_1_where_a_proof_fails(allocation: Run, prepared: Path) -> None:
    """As a program can tell."""
    assert allocation("check").wait() == 0

    with sqlite3.connect(prepared / "allocation.db") as connection:
        connection.execute("INSERT INTO products (sku, version, sequence) VALUES ('LAMP', 1, 5)")
    connection.close()

    broken = allocation("check", "--json")

    assert broken.wait() == 1
    assert [proof["broken"] for proof in json.loads(broken.logs()) if not proof["holds"]] == [
        ["LAMP"]
    ]


def test_status_tells_programs_every_figure(invoked: Invoked) -> None:
    """Commands, outbox, lines, queues and dead letters; a queue that is missing is null."""
    assert invoked("migrate").exit_code == 0

    status = invoked("status", "--json")

    assert status.exit_code == 0
    nothing = {"succeeded": 0, "rejected": 0, "failed": 0}
    dead = topology.dead_queues()
    assert json.loads(status.output) == {
        "backlog": {
            "unsent": 0,
            "oldest_unsent_seconds": 0.0,
            "pending": 0,
            "oldest_pending_seconds": 0.0,
            "follow_ups": 0,
            "overdue": 0,
            "waiting_lines": 0,
        },
        "last_minute": nothing,
        "kept": nothing,
        "queues": dict.fromkeys(name for name in topology.names() if name not in dead),
        "dead_letters": dict.fromkeys(dead),
        "partitions": [],
    }


def test_status_shows_people_what_waits(allocation: Run, prepared: Path) -> None:
    """One line a figure, in a pipe also where it was asked to watch."""
    put_dead_letter(prepared)

    status = allocation("status", "--watch")

    assert status.wait() == 0
    shown = {" ".join(line.split()) for line in status.logs().splitlines()}
    assert shown >= {
        "commands pending 0",
        "follow-ups pending 0",
        "overdue of these 0",
        "commands decided in the last minute 0 0.0 a second",
        "failed 0 0 of all that are kept",
        "outbox rows unsent 0",
        "order lines waiting 0",
        "queue allocation.commands 0",
        "dead letters allocation.dead 0",
        "dead letters warehouse.events.dead 1 see `allocation dead list`",
    }


def test_status_shows_a_terminal_each_change_until_ctrl_c(
    environment: dict[str, str], prepared: Path
) -> None:
    """Which is how it is meant to end: with status 0."""
    with on_terminal(environment, "status", "--watch") as (watching, screen):
        eventually(lambda: re.search(r"warehouse.events.dead +0", screen()), what="the first table")
        put_dead_letter(prepared)
        eventually(lambda: re.search(r"warehouse.events.dead +1", screen()), what="the change")
        watching.send_signal(signal.SIGINT)

        assert watching.wait(20) == 0
    assert "Traceback" not in screen()


def test_dead_letters_are_listed_and_replayed_on_the_embedded_broker(
    invoked: Invoked, prepared: Path
) -> None:
    """As on RabbitMQ."""
    put_dead_letter(prepared)

    listed = invoked("dead", "list", "--json")
    assert listed.exit_code == 0
    replayed = invoked("dead", "replay", "--reason", "unreadable")
    assert replayed.exit_code == 0

    assert [(row["reason"], row["letters"]) for row in json.loads(listed.output)] == [
        ("unreadable", 1)
    ]
    assert "1 dead letter was delivered again." in replayed.output
    with Connection(f"spool://{prepared}/spool", transport=SPOOL_TRANSPORT) as connection:
        queues = ("warehouse.events", "warehouse.events.dead")
        assert [topology.depth(connection, queue) for queue in queues] == [1, 0]


def test_dead_letters_fit_a_terminal_of_80_columns(
    environment: dict[str, str], prepared: Path
) -> None:
    """Ids and names in one piece, and how long ago it was."""
    put_dead_letter(prepared)

    with on_terminal(environment, "dead", "list", "--each") as (listing, screen):
        assert listing.wait(30) == 0
        shown = eventually(lambda: re.search(f".*{LETTER}.*", screen()), what="the letter")

    assert shown[0].split() == [LETTER, LONG_NAME, "2h5m"]
    assert len(shown[0].strip()) <= 80


@pytest.mark.parametrize(
    ("arguments", "changes", "sentence"),
    [
        (["check"], {"ALLOCATION_PORT": "http"}, "ALLOCATION_PORT: "),
        (
            ["check"],
            {"ALLOCATION_DATABASE_URL": "postgresql://me:secret@127.0.0.1:1/none"},
            "the database at postgresql://me:**@127.0.0.1:1/none does not respond",
        ),
        (
            ["topology"],
            {"ALLOCATION_BROKER_URL": "amqp://me:secret@127.0.0.1:1//"},
            "the broker at amqp://me:**@127.0.0.1:1// does not respond",
        ),
    ],
)
def test_what_cannot_be_reached_or_read_is_said_in_one_sentence(
    invoked: Invoked, arguments: list[str], changes: dict[str, str], sentence: str
) -> None:
    """Without a traceback, and without the password."""
    command = invoked(*arguments, **changes)

    assert command.exit_code != 0
    assert sentence in command.output
    assert "Traceback" not in command.output
    assert "secret" not in command.output
