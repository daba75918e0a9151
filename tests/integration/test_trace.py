"""The trace context goes with a command to all that follows from it, on real servers."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue
from pytest_celery import CeleryTestSetup

from tests.integration.conftest import BareClient, Service
from tests.servers.postgres import PrivatePostgres
from tests.waiting import eventually

pytestmark = pytest.mark.long

FIRST = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
SECOND = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
Told = list[tuple[str, str | None]]


class Ear:
    """Takes what comes to a queue of its own at the events' exchange."""

    def __init__(self, connection: Connection) -> None:
        exchange = Exchange("allocation.events", type="fanout", durable=True)
        self._queue = Queue("ear", exchange, durable=True)(connection.channel())
        self._queue.declare()
        self.messages: list[Any] = []

    def told(self, count: int) -> Told:
        """Type and traceparent of each event so far, once there are `count`."""

        def heard() -> bool:
            while message := self._queue.get(no_ack=True):
                self.messages.append(message)
            return len(self.messages) >= count

        eventually(heard, within=30, what=f"{count} events")
        events = [json.loads(message.body) for message in self.messages]
        return [(event["type"], event.get("traceparent")) for event in events]


def traced(client: BareClient, traceparent: str) -> BareClient:
    """The same service, within a span."""
    return replace(client, headers={"traceparent": traceparent})


@pytest.fixture
def ear(service: Service) -> Iterator[Ear]:
    """Listens from the beginning."""
    with Connection(service.broker_url) as connection:
        yield Ear(connection)


def test_events_are_told_in_the_trace_of_the_command_that_caused_them(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient, ear: Ear
) -> None:
    """Those of a follow-up, too; where there is no trace, or none that is well-formed, in none."""
    service.relay()
    client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)
    ear.told(1)
    traced(client, FIRST).send("allocation.allocate", orderid="o1", sku="LAMP", qty=5)
    ear.told(2)
    traced(client, SECOND).send("allocation.change_batch_quantity", batchref="b1", qty=5)
    ear.told(4)
    traced(client, "rubbish").send("allocation.create_batch", batchref="b2", sku="LAMP", qty=1)

    assert ear.told(5) == [
        ("allocation.batch_created.v1", None),
        ("allocation.out_of_stock.v1", FIRST),
        ("allocation.batch_quantity_changed.v1", SECOND),
        ("allocation.allocated.v1", SECOND),
        ("allocation.batch_created.v1", None),
    ]


def test_what_is_due_later_happens_in_the_trace_of_what_asked_for_it(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient, ear: Ear
) -> None:
    """The database remembers it until then."""
    service.relay()
    client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)
    ear.told(1)

    traced(client, FIRST).send("allocation.reserve", orderid="o1", sku="LAMP", qty=1, ttl=1)

    assert ear.told(3)[1:] == [
        ("allocation.reserved.v1", FIRST),
        ("allocation.reservation_released.v1", FIRST),
    ]


def test_a_command_that_is_tried_again_stays_in_its_trace(
    service: Service,
    celery_setup: CeleryTestSetup,
    client: BareClient,
    ear: Ear,
    private_postgres: PrivatePostgres,
) -> None:
    """Each retry carries it on."""
    private_postgres.kill()
    traced(client, FIRST).send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)
    celery_setup.worker.container.process.wait_for_log("the command failed; it will be retried")

    private_postgres.start()
    service.relay()

    assert ear.told(1) == [("allocation.batch_created.v1", FIRST)]


def test_a_dead_letter_that_is_replayed_is_decided_in_its_trace(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient, ear: Ear
) -> None:
    """The message keeps its header."""
    service.relay()
    service.refuse_rows("outbox")
    traced(client, FIRST).send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)
    eventually(lambda: len(service.dead_letters()) == 1, within=30, what="the dead letter")
    service.take_rows("outbox")

    service.run("dead", "replay", "--reason", "failed")

    assert ear.told(1) == [("allocation.batch_created.v1", FIRST)]


def test_an_event_that_is_replayed_has_the_trace_that_it_had(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient, ear: Ear
) -> None:
    """`allocation replay` sends what the relay sent."""
    service.relay()
    traced(client, FIRST).send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)
    ear.told(1)
    service.messages("warehouse.events")

    service.run("replay", "--queue", "warehouse.events")

    [again] = service.messages("warehouse.events")
    assert (again.headers["x-replay"], again.body) == ("first", ear.messages[0].body)
    assert json.loads(again.body)["traceparent"] == FIRST
