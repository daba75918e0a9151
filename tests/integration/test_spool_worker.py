"""The worker on the embedded default: commands are decided in batches, each once, whoever dies."""

import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import audit, database
from allocation.messaging.connection import SPOOL_TRANSPORT
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

LINES = 600


@pytest.fixture
def worker(prepared: Path, processes: Callable[..., Process]) -> Callable[[], Process]:
    """Starts a worker with as many processes as `allocation up` gives it."""

    def start() -> Process:
        command = [sys.executable, "-m", "celery", "-A", "allocation", "worker"]
        environment = {"ALLOCATION_STATE_DIR": str(prepared)}
        process = processes(command, name="worker", env=environment)
        process.wait_for_log("ready")
        return process

    return start


def send(state_dir: Path, commands: Iterable[tuple[str, dict[str, Any]]]) -> None:
    """Queue them in this order."""
    with Celery(broker=f"spool://{state_dir}/spool", set_as_current=False) as client:
        client.conf.broker_transport = SPOOL_TRANSPORT
        with client.producer_or_acquire() as producer:
            for name, body in commands:
                client.send_task(
                    f"allocation.{name}",
                    kwargs=body,
                    exchange=topology.COMMANDS,
                    routing_key=topology.COMMANDS,
                    producer=producer,
                )


def send_lines(state_dir: Path) -> None:
    """A batch that serves all lines but the last, and LINES lines."""
    stock = {"batchref": "shelf", "sku": "LAMP", "qty": LINES - 1}
    lines = ({"orderid": f"o{number}", "sku": "LAMP", "qty": 1} for number in range(LINES))
    send(state_dir, [("create_batch", stock), *(("allocate", line) for line in lines)])


def query(state_dir: Path, statement: str) -> list[Any]:
    with closing(sqlite3.connect(state_dir / "allocation.db")) as connection:
        return connection.execute(statement).fetchall()


def decided(state_dir: Path) -> int:
    [[number]] = query(state_dir, "SELECT count(*) FROM commands WHERE status = 'succeeded'")
    return int(number)


def unsettled(state_dir: Path) -> int:
    """Commands that are in the queue, or that a process holds."""
    with Connection(f"spool://{state_dir}/spool", transport=SPOOL_TRANSPORT) as connection:
        queued = topology.queued(connection, topology.COMMANDS)
    assert queued is not None
    return queued.messages + queued.consumers


def wait_until_done(state_dir: Path) -> None:
    eventually(lambda: decided(state_dir) == LINES + 1, within=40, what="all outcomes")
    eventually(lambda: not unsettled(state_dir), what="an empty queue")


def test_what_waits_together_is_decided_by_few_transactions(
    prepared: Path, worker: Callable[[], Process]
) -> None:
    send_lines(prepared)

    worker()
    wait_until_done(prepared)

    [[transactions]] = query(prepared, "SELECT count(DISTINCT decided_at) FROM commands")
    assert transactions < 60
    waiting = query(prepared, "SELECT orderid FROM allocations WHERE batchref IS NULL")
    assert waiting == [(f"o{LINES - 1}",)]


def test_a_worker_that_is_killed_among_its_batches_decides_each_command_once_and_in_order(
    prepared: Path, worker: Callable[[], Process]
) -> None:
    killed = worker()
    send_lines(prepared)
    eventually(lambda: decided(prepared) > LINES / 10, what="the worker at work")
    killed.kill()
    held = unsettled(prepared)

    worker()
    wait_until_done(prepared)

    assert held
    events = query(
        prepared,
        "SELECT name, count(*) FROM outbox WHERE kind = 'event' GROUP BY name ORDER BY name",
    )
    assert events == [
        ("allocation.allocated.v1", LINES - 1),
        ("allocation.batch_created.v1", 1),
        ("allocation.out_of_stock.v1", 1),
    ]
    waiting = query(prepared, "SELECT orderid FROM allocations WHERE batchref IS NULL")
    assert waiting == [(f"o{LINES - 1}",)]
    engine = database.engine(f"sqlite:///{prepared}/allocation.db")
    assert [proof for proof in audit.run(engine) if not proof.holds] == []
    engine.dispose()


@pytest.mark.parametrize(("database", "processes"), [("", "1"), ("postgresql://db/x", "None")])
def test_on_sqlite_a_second_process_would_only_wait_so_there_is_one(
    tmp_path: Path, database: str, processes: str
) -> None:
    command = [sys.executable, "-c", "import celeryconfig as c; print(c.worker_concurrency)"]
    environment = {"ALLOCATION_STATE_DIR": str(tmp_path), "ALLOCATION_DATABASE_URL": database}

    printed = subprocess.check_output(command, env=os.environ | environment, text=True)

    assert printed.strip() == processes
