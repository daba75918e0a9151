"""Commands that the broker has lost are sent again, and no backlog grows by that."""

import sys
from collections.abc import Callable

import pytest
from kombu import Connection
from sqlalchemy import func, select

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import audit
from allocation.adapters.sql.tables import allocations, commands, is_pending
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, Command, CreateBatch, Reserve
from allocation.service_layer.execution import accept_batch, execute
from tests.integration.conftest import Service
from tests.scraping import page, samples
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.storage.conftest import message
from tests.waiting import eventually

pytestmark = pytest.mark.long

Start = Callable[..., Process]
QUEUE = "allocation.commands"


def accept(service: Service, *accepted: Command) -> None:
    messages = [message(command, number) for number, command in enumerate(accepted, start=1)]
    accept_batch(messages, SqlUnitOfWork(service.engine))


def orders(count: int) -> list[Command]:
    return [CreateBatch("b1", "LAMP", 1000), *(Allocate(f"o{n}", "LAMP", 1) for n in range(count))]


def pending(service: Service) -> int:
    with service.engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(commands).where(is_pending)) or 0


def start_worker(start: Start, service: Service) -> Process:
    command = [sys.executable, "-m", "celery", "-A", "allocation", "worker", "--concurrency=1"]
    worker = start(command, name="worker", env=service.environment)
    worker.wait_for_log("celery@.* ready", within=60)
    return worker


def holds(service: Service) -> None:
    assert [proof.promise for proof in audit.run(service.engine) if not proof.holds] == []


def test_commands_of_a_purged_queue_are_sent_again_and_decided(
    service: Service, processes: Start
) -> None:
    relay = service.relay(ALLOCATION_RESEND_AFTER="1")
    accept(service, *orders(20))
    eventually(lambda: service.depth(QUEUE) == 21, within=60, what="the commands in the queue")
    with Connection(service.broker_url) as connection:
        connection.channel().queue_purge(QUEUE)

    start_worker(processes, service)

    relay.wait_for_log("overdue commands are published again", within=60)
    eventually(lambda: pending(service) == 0, within=60, what="all of them decided")
    holds(service)


def test_commands_of_a_deleted_queue_are_sent_again_once_it_is_declared_anew(
    service: Service, processes: Start
) -> None:
    relay = service.relay(ALLOCATION_RESEND_AFTER="1")
    accept(service, *orders(20))
    eventually(lambda: service.depth(QUEUE) == 21, within=60, what="the commands in the queue")
    with Connection(service.broker_url) as connection:
        connection.channel().queue_delete(QUEUE)

        relay.wait_for_log("their queue is missing: run `allocation topology`", within=60)
        topology.declare(connection)
    start_worker(processes, service)

    eventually(lambda: pending(service) == 0, within=60, what="all of them decided")
    holds(service)


def test_a_backlog_does_not_grow_however_old_it_is(service: Service) -> None:
    [port] = free_ports(1)
    settings = {"ALLOCATION_RESEND_AFTER": "0.5", "ALLOCATION_METRICS_PORT": str(port)}
    relay = service.relay(**settings)
    accept(service, *orders(99))
    eventually(lambda: service.depth(QUEUE) == 100, within=60, what="the commands in the queue")
    with Connection(service.broker_url) as connection:
        channel = connection.channel()
        for _ in range(10):
            channel.basic_get(QUEUE, no_ack=True)

    # When these ten have come back, the relay has checked several times.
    relay.wait_for_log("overdue commands are published again", within=60)
    eventually(lambda: service.depth(QUEUE) == 100, within=60, what="the ten in the queue again")
    again = "allocation_relay_resent_total"
    assert samples(page(port))[again, frozenset()] == 10
    with Connection(service.broker_url) as connection:
        connection.channel().basic_get(QUEUE, no_ack=True)
    eventually(
        lambda: service.depth(QUEUE) == 100,
        within=60,
        what="one more, as it is the only one missing",
    )
    assert samples(page(port))[again, frozenset()] == 11


def test_a_reservation_ends_though_its_end_was_lost_in_the_queue(
    service: Service, processes: Start
) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))
    execute(message(Reserve("o1", "LAMP", 3, ttl=1), 2), SqlUnitOfWork(service.engine))
    service.relay(ALLOCATION_RESEND_AFTER="1")
    eventually(lambda: ending(service), within=60, what="the end accepted")
    eventually(lambda: service.depth(QUEUE) == pending(service), within=60, what="it in the queue")
    with Connection(service.broker_url) as connection:
        connection.channel().queue_purge(QUEUE)

    start_worker(processes, service)

    eventually(lambda: not held(service), within=60, what="the end of the reservation")
    holds(service)


def ending(service: Service) -> int:
    with service.engine.connect() as connection:
        query = select(func.count()).where(commands.c.name == "allocation.expire")
        return connection.scalar(query) or 0


def held(service: Service) -> int:
    with service.engine.connect() as connection:
        query = select(func.count()).where(allocations.c.expires_at.is_not(None))
        return connection.scalar(query) or 0
