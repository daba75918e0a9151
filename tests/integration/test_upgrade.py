"""Old and new side by side, as in an upgrade without a stop: real processes of two releases."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import pytest
from kombu import Connection, Queue

from allocation.adapters.sql import audit
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import CreateBatch
from allocation.service_layer.execution import accept
from allocation.service_layer.unit_of_work import Message
from tests.integration.conftest import BareClient, Service
from tests.servers.processes import Process
from tests.waiting import eventually
from tests.workers.conftest import event, publish

ROOT = Path(__file__).parents[2]
Start = Callable[..., Process]


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., Path]:
    """A copy of the source as of another release, in which one file differs."""

    def make(name: str, file: str, edit: Callable[[str], str]) -> Path:
        folder = tmp_path / name
        for part in ("allocation", "workers"):
            shutil.copytree(
                ROOT / part, folder / part, ignore=shutil.ignore_patterns("__pycache__")
            )
        shutil.copy(ROOT / "celeryconfig.py", folder)
        text = (folder / file).read_text()
        (folder / file).write_text(edit(text))
        assert (folder / file).read_text() != text
        return folder

    return make


def without_eta(schema: str) -> str:
    """The contract of a time when batches had no ETA."""
    then = json.loads(schema)
    del then["properties"]["eta"]
    return json.dumps(then)


def start_worker(start: Start, service: Service, folder: Path) -> Process:
    command = [sys.executable, "-m", "celery", "-A", "allocation", "worker", "--concurrency=1"]
    environment = service.environment | {"PYTHONPATH": str(folder)}
    worker = start(command, name="worker", env=environment, cwd=folder)
    worker.wait_for_log("celery@.* ready")
    return worker


def test_an_older_worker_sets_a_newer_command_aside_until_it_is_upgraded(
    service: Service, client: BareClient, processes: Start, release: Callable[..., Path]
) -> None:
    """A field that it does not know may mean something: it neither ignores nor refuses it."""
    file = "allocation/contract/commands/create_batch.schema.json"
    worker = start_worker(processes, service, release("older", file, without_eta))
    service.relay()

    known = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    newer = client.send("allocation.create_batch", batchref="b2", sku="LAMP", qty=10, eta=None)
    accepted = Message(UUID(int=1), CreateBatch("b3", "LAMP", 10), correlation_id=UUID(int=1))
    accept(accepted, SqlUnitOfWork(service.engine))

    assert service.outcome(known)[0] == "succeeded"
    eventually(lambda: len(service.dead_letters()) == 2, what="both in the dead letters")
    assert {letter.reason for letter in service.dead_letters()} == {"unknown field"}
    assert service.outcome(str(accepted.id))[0] == "failed"
    worker.stop()
    start_worker(processes, service, ROOT)
    service.run("dead", "replay", "--reason", "unknown field")
    eventually(
        lambda: [service.outcome(str(i))[0] for i in (newer, accepted.id)] == ["succeeded"] * 2,
        what="the outcomes",
    )
    assert [proof.promise for proof in audit.run(service.engine) if not proof.holds] == []


def test_an_older_subscriber_sets_a_newer_event_aside_until_it_is_upgraded(
    service: Service, processes: Start, release: Callable[..., Path], empty_database_url: str
) -> None:
    """Fields that it does not know it ignores; another version it does not guess."""
    newer = release(
        "newer",
        "allocation/messaging/cloudevents.py",
        lambda text: text.replace('version != "1"', 'version not in ("1", "2")'),
    )
    environment = service.environment | {"WAREHOUSE_DATABASE_URL": empty_database_url}
    command = [sys.executable, "-m", "workers.warehouse"]
    older = processes(command, name="older", env=environment)
    older.wait_for_log("ready: consuming")
    first = event("allocated", 1, orderid="o1", batchref="b1")
    second = event("allocated", 2, orderid="o2", batchref="b1")

    publish(
        service.broker_url,
        first | {"tenant": "x", "data": first["data"] | {"note": "x"}},
        second | {"type": "allocation.allocated.v2"},
    )

    older.wait_for_log("pick list.*orderid=o1|orderid=o1.*pick list")
    eventually(lambda: len(dead(service)) == 1, what="the second in the dead letters")
    assert older.stop() == 0
    upgraded = processes(
        command, name="upgraded", cwd=newer, env=environment | {"PYTHONPATH": str(newer)}
    )
    upgraded.wait_for_log("ready: consuming")
    service.run("dead", "replay", "--name", "allocation.allocated.v2")
    upgraded.wait_for_log("orderid=o2")


def dead(service: Service) -> list[object]:
    """The warehouse's dead letters; they stay where they are."""
    with Connection(service.broker_url) as connection, connection.channel() as channel:
        queue = Queue("warehouse.events.dead")(channel)
        return list(iter(queue.get, None))
