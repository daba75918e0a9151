"""What worker, relay and inbound count, read from the pages that Prometheus would read."""

import os
import signal
import socket
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, CreateBatch
from allocation.service_layer.execution import accept, execute
from tests.contract.test_inbound_events import event
from tests.integration.conftest import BareClient, Service
from tests.integration.test_inbound import tell
from tests.scraping import counted, exported, names, page
from tests.servers.ports import free_ports
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import Process
from tests.storage.conftest import message
from tests.waiting import eventually

pytestmark = pytest.mark.long

DECIDED = "allocation_commands_decided_total"
RETRIES = "allocation_command_retries_total"
DEAD_LETTERS = "allocation_dead_letters_total"
PROCESSES = ("child0", "child1", "parent")


@pytest.fixture
def port() -> int:
    """A free one, for metrics."""
    return free_ports(1)[0]


def worker(service: Service, port: int, **settings: str) -> Process:
    """A worker of two children that serves its figures."""
    command = [sys.executable, "-m", "celery", "-A", "allocation", "worker", "--concurrency=2"]
    settings = {"ALLOCATION_METRICS_PORT": str(port)} | settings
    process = service.start_process(command, name="worker", env=service.environment | settings)
    process.wait_for_log("ready")
    return process


def has_counted(port: int, name: str, expected: dict[tuple[str, ...], float]) -> None:
    """Waits until the page has these counts: a figure may come a moment after what it counts."""
    seen: dict[tuple[str, ...], float] = {}

    def same() -> bool:
        nonlocal seen
        seen = counted(page(port), name)
        return seen == expected

    try:
        eventually(same, within=5, what=name)
    except AssertionError:
        assert seen == expected


def test_a_worker_counts_its_commands_by_name_and_outcome(
    service: Service, client: BareClient, port: int
) -> None:
    """One that waits has succeeded; what is no command is a dead letter, as is what fails."""
    worker(service, port)
    create: dict[str, Any] = {"batchref": "b1", "sku": "LAMP", "qty": 10}
    service.outcome(client.send("allocation.create_batch", **create))
    service.outcome(client.send("allocation.allocate", orderid="o1", sku="LAMP", qty=1))
    waits = service.outcome(client.send("allocation.allocate", orderid="o2", sku="LAMP", qty=99))
    service.outcome(client.send("allocation.allocate", orderid="o3", sku="NOPE", qty=1))
    client.send("allocation.allocate", orderid="o4", sku="LAMP", qty=1, colour="red")
    client.send_raw(b"{", headers={})
    eventually(lambda: service.depth("allocation.dead") == 2, what="two dead letters")

    assert waits[1]["status"] == "waiting"
    has_counted(
        port,
        DECIDED,
        {
            ("allocation.create_batch", "succeeded"): 1,
            ("allocation.allocate", "succeeded"): 2,
            ("allocation.allocate", "rejected"): 1,
            ("allocation.allocate", "failed"): 1,
        },
    )
    has_counted(
        port,
        DEAD_LETTERS,
        {("allocation.dead", "unreadable"): 1, ("allocation.dead", "unknown field"): 1},
    )
    text = page(port)
    assert counted(text, "allocation_job_seconds_count") == {(): 5}
    assert counted(text, "allocation_job_commands_sum") == {(): 5}
    assert counted(text, "allocation_lock_wait_seconds_count") == {(): 4}
    assert counted(text, RETRIES) == {}
    assert not any(name in text for name in ("LAMP", "o1", "b1"))
    assert names(text) == exported()["worker"]


def test_two_children_of_a_worker_count_together_and_their_heirs_count_on(
    service: Service, client: BareClient, port: int, tmp_path: Path
) -> None:
    """Exactly: a killed child's count stays, and its successor makes no further file."""
    process = worker(service, port, ALLOCATION_BATCH_SIZE="5", TMPDIR=str(tmp_path))
    skus = [f"sku-{number}" for number in range(100)]

    def create(round_: int) -> None:
        ids = [
            client.send("allocation.create_batch", batchref=f"{sku}-{round_}", sku=sku, qty=1)
            for sku in skus
        ]
        for each in ids:
            service.outcome(each)

    create(1)
    has_counted(port, DECIDED, {("allocation.create_batch", "succeeded"): 100})
    [folder] = tmp_path.glob("allocation-metrics-*")
    files = sorted(file.name for file in folder.iterdir())
    first = set(process.children())

    for pid in first:
        os.kill(pid, signal.SIGKILL)
    eventually(lambda: len(set(process.children()) - first) == 2, what="two new children")
    create(2)

    has_counted(port, DECIDED, {("allocation.create_batch", "succeeded"): 200})
    assert sorted(file.name for file in folder.iterdir()) == files
    kinds = ("counter", "gauge_max", "histogram")
    assert files == [f"{kind}_{who}.db" for kind in kinds for who in PROCESSES]
    process.stop()
    assert list(tmp_path.glob("allocation-metrics-*")) == []


def test_a_command_that_comes_again_later_is_counted_as_retried(
    service: Service, client: BareClient, port: int, private_postgres: PrivatePostgres
) -> None:
    """Once for each time; and once as decided in the end."""
    process = worker(service, port)
    service.outcome(client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10))
    private_postgres.kill()
    command_id = client.send("allocation.allocate", orderid="o1", sku="LAMP", qty=1)
    process.wait_for_log(f"will be retried.*{command_id}")
    private_postgres.start()
    service.engine.dispose()

    assert service.outcome(command_id, within=40)[0] == "succeeded"

    retries = process.logs().count("the command failed; it will be retried")
    has_counted(port, RETRIES, {("allocation.allocate",): retries})
    has_counted(
        port,
        DECIDED,
        {("allocation.create_batch", "succeeded"): 1, ("allocation.allocate", "succeeded"): 1},
    )


def test_the_wait_for_a_locked_product_is_measured(
    service: Service, client: BareClient, port: int
) -> None:
    """It is the time that somebody else keeps the row."""
    worker(service, port)
    service.outcome(client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10))
    waiting = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with service.engine.begin() as holder, service.engine.connect() as watcher:
        holder.execute(text("SELECT * FROM products FOR UPDATE"))
        command_id = client.send("allocation.allocate", orderid="o1", sku="LAMP", qty=1)
        watcher = watcher.execution_options(isolation_level="AUTOCOMMIT")
        eventually(lambda: watcher.scalar(waiting), what="the worker waiting for the row")
        holder.execute(text("SELECT pg_sleep(0.3)"))
    service.outcome(command_id)

    [waited] = counted(page(port), "allocation_lock_wait_seconds_sum").values()
    assert 0.3 < waited < 5


def test_a_relay_counts_what_the_broker_has_by_kind_and_name(service: Service, port: int) -> None:
    """Events and commands; one relay is active, the other stands by."""
    execute(message(CreateBatch("b1", "LAMP", 3), 1), SqlUnitOfWork(service.engine))
    for number in (2, 3, 4):
        command = Allocate(f"o{number}", "LAMP", 2)
        execute(message(command, number), SqlUnitOfWork(service.engine))
    accept(message(Allocate("o5", "LAMP", 1), 5), SqlUnitOfWork(service.engine))

    active = service.relay(ALLOCATION_METRICS_PORT=str(port))
    active.wait_for_log("ready: relaying")
    [other] = free_ports(1)
    service.relay(ALLOCATION_METRICS_PORT=str(other))

    has_counted(
        port,
        "allocation_relay_sent_total",
        {
            ("command", "allocation.allocate"): 1,
            ("event", "allocation.batch_created.v1"): 1,
            ("event", "allocation.allocated.v1"): 1,
            ("event", "allocation.out_of_stock.v1"): 2,
        },
    )
    served = eventually(lambda: _page_of(other), what="the page of the other")
    assert counted(served, "allocation_relay_active") == {}
    text = page(port)
    assert counted(text, "allocation_relay_active") == {(): 1}
    assert counted(text, "allocation_relay_confirm_seconds_count")[()] >= 1
    assert "LAMP" not in text
    assert {name for name in names(text) if name.startswith("allocation_")} == exported()["relay"]


def _page_of(port: int) -> str:
    try:
        return page(port)
    except OSError:
        return ""


def test_inbound_counts_what_it_accepts_and_what_it_refuses(service: Service, port: int) -> None:
    """The refused ones by reason, as dead letters."""
    service.inbound(ALLOCATION_METRICS_PORT=str(port))

    told = [event(id=f"count-{number}") for number in range(3)]
    tell(service.broker_url, [*told, b"{", event(type="batch.unheard_of.v1")])
    eventually(lambda: service.depth("allocation.inbound.dead") == 2, what="two dead letters")

    has_counted(port, "allocation_inbound_events_total", {("accepted",): 3, ("refused",): 2})
    text = page(port)
    assert counted(text, DEAD_LETTERS) == {
        ("allocation.inbound.dead", "unreadable"): 1,
        ("allocation.inbound.dead", "unknown type"): 1,
    }
    assert counted(text, "allocation_inbound_consuming") == {(): 1}
    assert {name for name in names(text) if name.startswith("allocation_")} == exported()["inbound"]


@pytest.mark.parametrize("name", ["worker", "relay", "inbound"])
def test_a_port_that_is_taken_ends_the_process_with_the_settings_name(
    service: Service, port: int, name: str
) -> None:
    """A second one on the same port is a mistake in the settings."""
    service.relay(ALLOCATION_METRICS_PORT=str(port)).wait_for_log("ready: relaying")
    command = {
        "worker": [sys.executable, "-m", "celery", "-A", "allocation", "worker"],
        "relay": [sys.executable, "-m", "allocation", "relay"],
        "inbound": [sys.executable, "-m", "allocation", "inbound"],
    }[name]

    second = service.start_process(
        command,
        name=f"second-{name}",
        env=service.environment | {"ALLOCATION_METRICS_PORT": str(port)},
    )

    assert second.wait() == 1
    assert (
        f"allocation: no metrics can be served at 127.0.0.1:{port}: Address already in use;"
        " set ALLOCATION_METRICS_PORT to another port"
    ) in second.logs()


def test_the_port_is_free_as_soon_as_the_worker_is_killed(service: Service, port: int) -> None:
    """Its children may outlive it for a while: they don't hold the port."""
    process = worker(service, port)
    for child in process.children():
        os.kill(child, signal.SIGSTOP)

    process.kill(group=False)

    try:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=5)
    finally:
        process.kill()
