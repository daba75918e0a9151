"""Workers that publish their events themselves, with and without a relay behind them."""

import sys
from collections import Counter
from dataclasses import replace
from itertools import count, islice

import pytest
from kombu import Connection
from sqlalchemy import select

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql.tables import is_unsent, outbox
from allocation.messaging.connection import each_node
from allocation.messaging.publisher import DirectPublisher, Outgoing
from tests.integration.conftest import BareClient, Service
from tests.integration.test_relay import Ear, heard, unsent
from tests.scraping import counted, page
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

__all__ = ["heard"]


def start_worker(
    service: Service, pool: str = "prefork", name: str = "worker", **settings: str
) -> Process:
    command = ["-m", "celery", "-A", "allocation", "worker", f"--pool={pool}", "--concurrency=2"]
    worker = service.start_process(
        [sys.executable, *command, f"--hostname={name}@%h"],
        name=name,
        env=service.environment | settings,
    )
    worker.wait_for_log(f"{name}@.* ready")
    return worker


def create_batches(client: BareClient, number_of: int) -> None:
    for number in range(number_of):
        client.send("allocation.create_batch", batchref=f"b{number}", sku="LAMP", qty=1)


@pytest.mark.parametrize("pool", ["prefork", "solo"])
def test_a_worker_publishes_what_it_commits_without_a_relay(
    service: Service, client: BareClient, heard: Ear, pool: str
) -> None:
    start_worker(service, pool)
    create_batches(client, 20)

    events = heard.take(20)

    assert [event["sequence"] for event in events] == list(range(1, 21))
    assert heard.messages == []
    eventually(lambda: unsent(service) == 0, what="all rows marked as sent")
    with service.engine.connect() as connection:
        stored = connection.scalars(select(outbox.c.body).order_by(outbox.c.sequence)).all()
    assert events == stored


def test_an_exception_amid_its_messages_does_not_mix_up_later_confirms(
    broker_url: str, heard: Ear
) -> None:
    """A time limit may end a batch anywhere."""
    publisher = DirectPublisher(
        each_node(broker_url, confirm=False, time_limit=5.0), lambda error, seconds: None
    )
    good, later = (Outgoing(name, topology.EVENTS, "", "{}", "text/plain") for name in "ab")
    unsendable = replace(good, id="c", body="\ud800")

    with pytest.raises(UnicodeEncodeError):
        publisher.publish([good, unsendable])

    assert publisher.publish([later]) == {later.id}
    publisher.close()
    assert heard.take(1) == [{}]


def test_each_event_is_published_once_beside_a_relay(
    service: Service, client: BareClient, heard: Ear
) -> None:
    """The relay's own page says that it published none of them."""
    worker_port, relay_port = free_ports(2)
    service.relay(ALLOCATION_METRICS_PORT=str(relay_port)).wait_for_log("ready: relaying")
    start_worker(service, ALLOCATION_METRICS_PORT=str(worker_port))
    create_batches(client, 50)

    events = heard.take(50)

    eventually(lambda: unsent(service) == 0, what="all rows marked as sent")
    assert set(Counter(event["id"] for event in events).values()) == {1}
    sent = eventually(
        lambda: counted(page(worker_port), "allocation_worker_sent_total"), what="the counts"
    )
    assert sent == {("allocation.batch_created.v1",): 50}
    assert counted(page(relay_port), "allocation_relay_sent_total") == {}


def test_a_queue_gets_the_events_of_a_sku_in_order_from_two_workers_and_the_relay(
    service: Service, client: BareClient, heard: Ear
) -> None:
    first_port, second_port, relay_port = ports = free_ports(3)
    service.relay(ALLOCATION_METRICS_PORT=str(relay_port)).wait_for_log("ready: relaying")
    for name, port in ("worker-1", first_port), ("worker-2", second_port):
        start_worker(
            service, name=name, ALLOCATION_METRICS_PORT=str(port), ALLOCATION_BATCH_SIZE="5"
        )
    numbers = count()

    def each_has_published() -> bool:
        sent = [
            client.send("allocation.create_batch", batchref=f"b{number}", sku="LAMP", qty=1)
            for number in islice(numbers, 100)
        ]
        service.outcome(sent[-1])
        # While the relay is behind with the sku, workers leave its events to it.
        eventually(lambda: unsent(service) == 0, within=60, what="all rows marked as sent")
        return all(map(sent_by, ports))

    eventually(each_has_published, within=60, what="events of both workers and the relay")
    committed = next(numbers)
    sequences: dict[int, None] = {}
    while len(sequences) < committed:
        # A machine that stands still for longer than the grace repeats an event.
        sequences.setdefault(heard.take(1, within=60)[0]["sequence"])

    assert list(sequences) == list(range(1, committed + 1))


def sent_by(port: int) -> float:
    """How many events the process with this port of metrics published."""
    counts = ("allocation_worker_sent_total", "allocation_relay_sent_total")
    return sum(sum(counted(page(port), name).values()) for name in counts)


def test_a_worker_that_is_told_not_to_leaves_all_events_to_the_relay(
    service: Service, client: BareClient, heard: Ear
) -> None:
    """At once: for nobody else's sake."""
    start_worker(service, ALLOCATION_PUBLISH_DIRECTLY="false")
    service.outcome(client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1))
    with service.engine.connect() as connection:
        assert connection.execute(select(outbox.c.sent_at, outbox.c.relay_at)).all() == [
            (None, None)
        ]

    service.relay()

    assert [event["data"]["batchref"] for event in heard.take(1)] == ["b1"]


def test_a_worker_that_cannot_publish_leaves_its_events_to_the_relay_until_it_can(
    service: Service, client: BareClient, heard: Ear
) -> None:
    """Here a subscriber's queue is missing, so that nothing may count as published.

    Each event is of another sku: behind an unmarked event none of its own is published.
    """
    numbers = count()

    def create() -> None:
        number = next(numbers)
        command_id = client.send(
            "allocation.create_batch", batchref=f"b{number}", sku=f"LAMP-{number}", qty=1
        )
        assert service.outcome(command_id)[0] == "succeeded"

    def has_published() -> bool:
        create()
        with service.engine.connect() as connection:
            return bool(connection.scalars(select(outbox).where(~is_unsent)).all())

    with Connection(service.broker_url) as connection:
        connection.default_channel.queue_delete("warehouse.events")
        worker = start_worker(service)
        create()
        worker.wait_for_log("leaves them to the relay; a queue is missing")
        create()
        assert unsent(service) == 2
        topology.declare(connection)

    eventually(has_published, within=30, what="the worker publishing again")
    service.relay()
    eventually(lambda: unsent(service) == 0, what="all rows marked as sent")
    committed = next(numbers)
    subjects = {event["subject"] for event in heard.take(committed)}
    assert subjects == {f"LAMP-{number}" for number in range(committed)}
    assert service.depth("warehouse.events") == committed
