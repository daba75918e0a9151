"""The command line as people meet it, on the embedded default."""

import json
import signal
import socket
import sqlite3
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import pytest
from kombu import Connection

from allocation import check
from allocation.adapters import topology
from allocation.settings import SPOOL_TRANSPORT
from tests.scraping import exported, names, page
from tests.servers.ports import free_ports, free_row
from tests.servers.processes import Process

pytestmark = pytest.mark.long

Run = Callable[..., Process]


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
        command = [sys.executable, "-m", "allocation.cli", *arguments]
        return processes(command, name=arguments[0], env=environment | changes)

    return start


def test_the_demo_plays_the_whole_story(allocation: Run) -> None:
    """And ends with the proof of the books."""
    demo = allocation("demo")

    assert demo.wait(100) == 0
    told = demo.logs()
    assert "moved to batch late" in told
    assert "order-1 from early cancelled, order-1 from late open, order-2 from new open" in told
    assert "New day for order order-1: arrives 2030-09-01" in told
    assert "The warehouse's pick of order-3 is dispatched." in told
    assert told.count("\n  holds  ") == len(check.PROOFS)


def test_up_starts_everything_and_stops_it_cleanly(allocation: Run) -> None:
    """Each process says that it is ready; Ctrl-C ends all with status 0."""
    up = allocation("up")
    for line in (
        "api .*ready at",
        "relay .*ready: relaying",
        "inbound .*ready: consuming",
        "worker .*ready",
        "warehouse .*ready: consuming",
        "notification .*ready: consuming",
        "flower .*Visit me at",
    ):
        up.wait_for_log(line, within=40)

    assert up.stop(by=signal.SIGINT, within=40) == 0
    names = ("api", "worker", "relay", "inbound", "warehouse", "notification", "flower")
    for name in names:
        up_log = up.logs()
        assert f"{name} stopped (rc=0)" in up_log


def test_up_gives_each_process_a_port_for_its_metrics(
    allocation: Run, environment: dict[str, str], promtool: Callable[..., str]
) -> None:
    """Counting up from the one that is set. Prometheus's own checker finds no fault in any page."""
    first = free_row(5)
    up = allocation("up", ALLOCATION_METRICS_PORT=str(first))
    for line in ("api .*ready at", "relay .*ready: relaying", "inbound .*ready: consuming"):
        up.wait_for_log(line, within=40)
    for line in ("worker .*ready", "warehouse .*ready: cons", "notification .*ready: cons"):
        up.wait_for_log(line, within=40)

    served = dict(
        zip(
            ("worker", "relay", "inbound", "warehouse", "notification"),
            range(first, first + 5),
            strict=True,
        )
    )
    port = int(environment["ALLOCATION_PORT"])
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
    for name, port in served.items():
        assert f"The metrics of {name}: http://127.0.0.1:{port}/metrics" in up.logs()


def shown(text: str) -> set[str]:
    """A page's series, without those of the process itself."""
    return {name for name in names(text) if not name.startswith("process_")}


def test_up_names_the_process_that_cannot_start(
    allocation: Run, environment: dict[str, str]
) -> None:
    """And stops the others."""
    with socket.create_server(("127.0.0.1", int(environment["ALLOCATION_PORT"]))):
        up = allocation("up")

        assert up.wait(60) == 1
    assert "allocation: api stopped with exit status" in up.logs()


def test_check_ends_with_status_1_where_a_proof_fails(allocation: Run, state_dir: Path) -> None:
    """As a program can tell."""
    assert allocation("migrate").wait() == 0
    assert allocation("check").wait() == 0

    with sqlite3.connect(state_dir / "allocation.db") as connection:
        connection.execute("INSERT INTO products (sku, version, sequence) VALUES ('LAMP', 1, 5)")
    connection.close()

    broken = allocation("check", "--json")

    assert broken.wait() == 1
    assert [proof["broken"] for proof in json.loads(broken.logs()) if not proof["holds"]] == [
        ["LAMP"]
    ]


def test_status_counts_commands_and_messages(allocation: Run) -> None:
    """And says what is missing."""
    assert allocation("migrate").wait() == 0
    assert allocation("topology").wait() == 0

    status = allocation("status", "--json")

    assert status.wait() == 0
    figures = json.loads(status.logs())
    assert figures["commands pending"] == figures["outbox rows unsent"] == 0
    assert figures["queue allocation.commands"] == figures["queue warehouse.events.dead"] == 0


def test_dead_letters_are_listed_and_replayed_on_the_embedded_broker(
    allocation: Run, state_dir: Path
) -> None:
    """As on RabbitMQ."""
    assert allocation("topology").wait() == 0
    with Connection(f"spool://{state_dir}/spool", transport=SPOOL_TRANSPORT) as connection:
        connection.Producer().publish(
            b"{}", routing_key="warehouse.events.dead", headers={"x-reason": "unreadable"}
        )

    listed = allocation("dead", "list", "--json")
    assert listed.wait() == 0
    replayed = allocation("dead", "replay", "--reason", "unreadable")
    assert replayed.wait() == 0

    assert [(row["reason"], row["letters"]) for row in json.loads(listed.logs())] == [
        ("unreadable", 1)
    ]
    assert "1 dead letter was delivered again." in replayed.logs()
    with Connection(f"spool://{state_dir}/spool", transport=SPOOL_TRANSPORT) as connection:
        queues = ("warehouse.events", "warehouse.events.dead")
        assert [topology.depth(connection, queue) for queue in queues] == [1, 0]


@pytest.mark.parametrize(
    ("arguments", "changes", "sentence"),
    [
        (["check"], {"ALLOCATION_PORT": "http"}, "ALLOCATION_PORT: "),
        (
            ["check"],
            {"ALLOCATION_DATABASE_URL": "postgresql://me:secret@127.0.0.1:1/none"},
            "the database at postgresql://me:**@127.0.0.1:1/none gave no answer",
        ),
        (
            ["topology"],
            {"ALLOCATION_BROKER_URL": "amqp://me:secret@127.0.0.1:1//"},
            "the broker at amqp://me:**@127.0.0.1:1// gave no answer",
        ),
    ],
)
def test_what_cannot_be_reached_or_read_is_said_in_one_sentence(
    allocation: Run, arguments: list[str], changes: dict[str, str], sentence: str
) -> None:
    """Without a traceback, and without the password."""
    command = allocation(*arguments, **changes)

    assert command.wait() != 0
    assert sentence in command.logs()
    assert "Traceback" not in command.logs()
    assert "secret" not in command.logs()
