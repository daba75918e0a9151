"""The relay as a real process: what is committed is told, in order, by one relay at a time."""

import json
import random
import signal
from collections.abc import Iterator
from typing import Any
from uuid import UUID

import pytest
from kombu import Connection, Exchange, Queue
from sqlalchemy import func, select

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql.tables import outbox
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, CreateBatch
from allocation.service_layer.execution import accept, execute
from tests.integration.conftest import Service
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.storage.conftest import message
from tests.waiting import eventually

pytestmark = pytest.mark.long


@pytest.fixture
def heard(broker_url: str) -> Iterator["Ear"]:
    """A subscriber's own queue at the events' exchange."""
    with Connection(broker_url) as connection:
        yield Ear(connection)


class Ear:
    """Everything that comes to a queue which it bound itself."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        exchange = Exchange("allocation.events", type="fanout", durable=True)
        self._queue = Queue("ear", exchange, durable=True)(connection.channel())
        self._queue.declare()
        self.messages: list[Any] = []

    def take(self, count: int, within: float = 15) -> list[dict[str, Any]]:
        """The next `count` events."""

        def taken() -> bool:
            while got := self._queue.get(no_ack=True):
                self.messages.append(got)
            return len(self.messages) >= count

        eventually(taken, within=within, what=f"{count} events")
        taken_now, self.messages = self.messages[:count], self.messages[count:]
        return [json.loads(got.body) for got in taken_now]


def unsent(service: Service) -> int:
    query = select(func.count()).select_from(outbox).where(outbox.c.sent_at.is_(None))
    with service.engine.connect() as connection:
        return connection.scalar(query) or 0


def allocate_many(service: Service, count: int, skus: int = 5) -> None:
    """Batches of some skus, and `count` orders over them."""
    chance = random.Random(7)
    for number in range(skus):
        create = CreateBatch(f"batch-{number}", f"sku-{number}", 10_000)
        execute(message(create, number + 1), SqlUnitOfWork(service.engine))
    for number in range(count):
        allocate = Allocate(f"order-{number}", f"sku-{chance.randrange(skus)}", 1)
        execute(message(allocate, 1000 + number), SqlUnitOfWork(service.engine))


def test_an_event_is_told_as_a_persistent_cloud_event(service: Service, heard: Ear) -> None:
    """Structured JSON, named by its content type."""
    service.relay()
    execute(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))

    [event] = heard.take(1)

    with service.engine.connect() as connection:
        stored = connection.scalar(select(outbox.c.body).where(outbox.c.kind == "event"))
    assert event == stored
    assert event["type"] == "allocation.batch_created.v1"


def test_an_accepted_command_goes_out_as_a_task_of_the_same_id(
    service: Service, broker_url: str
) -> None:
    """So that the inbox knows it again."""
    accept(message(Allocate("o1", "LAMP", 4), 7), SqlUnitOfWork(service.engine))

    service.relay()
    eventually(lambda: service.depth("allocation.commands") == 1, what="the task in the queue")

    with Connection(broker_url) as connection:
        got = Queue("allocation.commands")(connection.channel()).get(no_ack=True)
        assert (got.headers["id"], got.headers["task"]) == (str(UUID(int=7)), "allocation.allocate")
        assert got.headers["root_id"] == str(UUID(int=7))
        assert got.properties["delivery_mode"] == 2
        assert got.payload[:2] == [[], {"orderid": "o1", "sku": "LAMP", "qty": 4}]


def test_each_skus_events_come_in_the_order_of_their_sequence(service: Service, heard: Ear) -> None:
    """From a backlog of several batches, all told once."""
    allocate_many(service, 500)

    service.relay()

    events = heard.take(505)
    for number in range(5):
        of_sku = [event["sequence"] for event in events if event["subject"] == f"sku-{number}"]
        assert of_sku == list(range(1, len(of_sku) + 1))
    eventually(lambda: unsent(service) == 0, what="all rows marked as sent")


def test_a_second_relay_stands_by_and_takes_over_when_the_first_is_killed(
    service: Service, heard: Ear
) -> None:
    """One at a time, and never none."""
    first = service.relay("first")
    first.wait_for_log("ready: relaying")
    second = service.relay("second")

    execute(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))
    heard.take(1)
    eventually(lambda: unsent(service) == 0, what="the row marked as sent")
    assert "ready: relaying" not in second.logs()
    first.kill()
    second.wait_for_log("ready: relaying")
    execute(message(CreateBatch("b2", "LAMP", 10), 2), SqlUnitOfWork(service.engine))

    [event] = heard.take(1)
    assert event["data"]["batchref"] == "b2"


def test_a_killed_relay_tells_everything_at_least_once(service: Service, heard: Ear) -> None:
    """Whether it died before the publish, before the confirm or before the mark."""
    allocate_many(service, 600)
    for _ in range(3):
        running = service.relay()
        running.wait_for_log("ready: relaying")
        eventually(lambda: unsent(service) < 600, what="the relay at work")
        running.kill()
    service.relay()
    eventually(lambda: unsent(service) == 0, within=20, what="all rows marked as sent")

    told = {event["id"] for event in heard.take(605)}

    with service.engine.connect() as connection:
        stored = connection.scalars(select(outbox.c.id).where(outbox.c.kind == "event"))
        assert {str(stored_id) for stored_id in stored} <= told | {
            event["id"] for event in (json.loads(got.body) for got in heard.messages)
        }


def test_a_command_that_no_queue_takes_stays_pending_until_one_does(
    service: Service, broker_url: str
) -> None:
    """A publish to an exchange without a queue is confirmed by the broker all the same."""
    running = service.relay()
    running.wait_for_log("ready: relaying")
    with Connection(broker_url) as connection:
        with connection.channel() as channel:
            channel.queue_delete("allocation.commands")

        accept(message(Allocate("o1", "LAMP", 4), 7), SqlUnitOfWork(service.engine))
        running.wait_for_log("the broker accepted only some messages")
        assert unsent(service) == 1
        topology.declare(connection)

    eventually(lambda: unsent(service) == 0, what="the row sent to the queue declared anew")
    eventually(lambda: service.depth("allocation.commands") == 1, what="the task in the queue")


def test_the_relay_outlives_its_broker(
    service: Service, private_rabbitmq: PrivateRabbitMQ, heard: Ear
) -> None:
    """It waits, connects again and tells what was committed meanwhile."""
    running = service.relay()
    running.wait_for_log("ready: relaying")

    private_rabbitmq.kill()
    execute(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))
    running.wait_for_log("the relay pauses")
    private_rabbitmq.start()

    eventually(lambda: unsent(service) == 0, within=30, what="all rows marked as sent")
    assert running.running


def test_the_relay_stops_when_it_is_asked_to(service: Service) -> None:
    """SIGTERM ends it cleanly."""
    running = service.relay()
    running.wait_for_log("ready: relaying")

    assert running.stop(by=signal.SIGTERM) == 0
