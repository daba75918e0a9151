"""A broker short of memory hangs nobody: each publisher fails in time, and goes on after."""

import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from kombu import Connection
from sqlalchemy import select, text

from allocation.adapters.sql.tables import commands
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import CreateBatch
from allocation.service_layer.execution import accept
from tests.integration.conftest import BareClient, Service
from tests.integration.test_relay import unsent
from tests.integration.test_rights import PROGRAMS
from tests.servers.processes import Process
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.storage.conftest import message
from tests.waiting import eventually

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(300)]


@contextmanager
def alarm(server: PrivateRabbitMQ) -> Iterator[None]:
    """Meanwhile the broker has less memory than it uses."""
    server.ctl("set_vm_memory_high_watermark", "0.00001")
    try:
        eventually(
            lambda: "memory" in server.ctl("eval", "rabbit_alarm:get_local_alarms()."),
            what="the alarm",
        )
        yield
    finally:
        server.ctl("set_vm_memory_high_watermark", "0.4")
        eventually(
            lambda: "memory" not in server.ctl("eval", "rabbit_alarm:get_local_alarms()."),
            what="the end of the alarm",
        )


@pytest.fixture
def start(
    service: Service, processes: Callable[..., Process], empty_database_url: str
) -> Callable[[str], Process]:
    """Starts a program, and waits until it is ready."""

    def started(name: str) -> Process:
        command, ready = PROGRAMS[name]
        environment = service.environment | {
            "WAREHOUSE_DATABASE_URL": empty_database_url,
            "ALLOCATION_LOG_LEVEL": "DEBUG",  # so that the worker tells each command it receives
        }
        process = processes([sys.executable, *command], name=name, env=environment)
        process.wait_for_log(ready, within=40)
        return process

    return started


def test_the_relay_marks_nothing_while_the_alarm_lasts_and_everything_after(
    service: Service, private_rabbitmq: PrivateRabbitMQ, start: Callable[[str], Process]
) -> None:
    """It says what is wrong, and gives signs of life all the time."""
    relay = start("relay")

    with alarm(private_rabbitmq):
        for number in range(1, 21):
            create = CreateBatch(f"b{number}", f"LAMP-{number}", 10)
            accept(message(create, number), SqlUnitOfWork(service.engine))
        relay.wait_for_log("the relay pauses", within=30)
        assert unsent(service) == 20
        assert relay.running

    eventually(lambda: unsent(service) == 0, within=30, what="everything told")
    eventually(lambda: (service.depth("allocation.commands") or 0) >= 20, what="every command")


def cut_off_the_database(service: Service) -> None:
    """Every transaction that runs now fails, as in a failover."""
    with service.engine.begin() as connection:
        connection.execute(
            text(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
                " AND wait_event_type = 'Lock'"
            )
        )


def test_commands_that_came_before_are_decided_during_the_alarm(
    service: Service,
    private_rabbitmq: PrivateRabbitMQ,
    start: Callable[[str], Process],
    client: BareClient,
) -> None:
    """The worker's loop waits for no event to be told, and its connection is not disturbed."""
    worker = start("worker")
    lock = service.engine.connect()
    lock.execute(text("LOCK TABLE commands IN ACCESS EXCLUSIVE MODE"))
    ids = [
        client.send("allocation.create_batch", batchref=f"b{number}", sku="LAMP", qty=10)
        for number in range(30)
    ]
    worker.wait_for_log("received")

    with alarm(private_rabbitmq):
        # Meanwhile the worker tells its heartbeats, which nobody takes.
        eventually(
            lambda: "blocked" in private_rabbitmq.ctl("list_connections", "state"),
            within=20,
            what="a connection that the broker does not read from any more",
        )
        lock.close()
        for command_id in ids:
            assert service.outcome(command_id, within=20)[0] == "succeeded"

    assert "Connection to broker lost" not in worker.logs()
    assert service.depth("allocation.commands") == 0


def test_a_retry_that_the_broker_does_not_take_is_no_success(
    service: Service,
    private_rabbitmq: PrivateRabbitMQ,
    start: Callable[[str], Process],
    client: BareClient,
) -> None:
    """Its publish ends in time, the command is kept, and the worker goes on after the alarm."""
    worker = start("worker")
    lock = service.engine.connect()
    lock.execute(text("LOCK TABLE commands IN ACCESS EXCLUSIVE MODE"))
    lost = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    worker.wait_for_log(f"{lost}.*received")

    with alarm(private_rabbitmq):
        cut_off_the_database(service)
        worker.wait_for_log(f"{lost}.*reject", within=40)
        lock.close()

    def kept() -> bool:
        with service.engine.connect() as connection:
            query = select(commands.c.status).where(commands.c.id == lost)
            return connection.scalar(query) == "succeeded" or service.depth("allocation.dead") == 1

    eventually(kept, within=30, what="the command decided, or its dead letter")
    later = client.send("allocation.create_batch", batchref="b2", sku="LAMP", qty=10)
    assert service.outcome(later, within=30)[0] == "succeeded"


def test_each_process_stops_in_its_grace_during_the_alarm(
    service: Service,
    private_rabbitmq: PrivateRabbitMQ,
    start: Callable[[str], Process],
    client: BareClient,
) -> None:
    """As long as compose.yaml lets them, with something to publish in each one's hands."""
    worker, relay, warehouse = start("worker"), start("relay"), start("warehouse")
    lock = service.engine.connect()
    lock.execute(text("LOCK TABLE commands IN ACCESS EXCLUSIVE MODE"))
    retried = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    worker.wait_for_log(f"{retried}.*received")
    with Connection(service.broker_url) as connection:
        warehouse.send(signal.SIGSTOP)
        connection.Producer().publish("nonsense", exchange="allocation.events", routing_key="")
        eventually(lambda: service.depth("notification.events") == 1, what="the bad event")

    with alarm(private_rabbitmq):
        cut_off_the_database(service)
        lock.close()
        accept(message(CreateBatch("b2", "LAMP", 10), 2), SqlUnitOfWork(service.engine))
        warehouse.send(signal.SIGCONT)
        warehouse.wait_for_log("an event is dead-lettered")
        statuses = [
            process.stop(grace, by=signal.SIGTERM)
            for process, grace in ((relay, 25), (warehouse, 25), (worker, 55))
        ]

    assert statuses == [0, 0, 0]
    assert unsent(service) == 1
