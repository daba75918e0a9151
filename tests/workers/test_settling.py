"""Batches over a real broker: what is acknowledged, what comes again, and what stands alone."""

import json
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection, Consumer, Queue
from kombu.transport.base import StdChannel

from allocation.adapters.rabbitmq import topology
from allocation.messaging.connection import SPOOL_TRANSPORT, connect
from allocation.messaging.subscriber import (
    Delivery,
    InvalidMessage,
    acknowledge,
    read_delivery,
    take_batch,
)
from tests.faults.gates import Gate
from tests.waiting import eventually
from tests.workers.conftest import QUEUE, Warehouse, as_bytes, event, expected, life
from workers.warehouse.messages import parse
from workers.warehouse.running import MIGRATIONS

pytestmark = pytest.mark.long


@pytest.fixture(params=["rabbitmq", "spool"])
def connection(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Connection]:
    """To each kind of broker, with every queue declared."""
    if request.param == "spool":
        made = connect(f"spool://{tmp_path}/spool", SPOOL_TRANSPORT)
    else:
        made = connect(request.getfixturevalue("broker_url"))
    with made:
        topology.declare(made)
        yield made


def tell(connection: Connection, *bodies: Any, **headers: object) -> None:
    for body in bodies:
        connection.Producer().publish(
            as_bytes(body),
            exchange="allocation.events",
            content_type="application/cloudevents+json",
            content_encoding="utf-8",
            headers=headers,
        )


def receive(
    connection: Connection, channel: StdChannel, count: int
) -> deque[Delivery | InvalidMessage]:
    """The first messages of the queue."""
    pending: deque[Delivery | InvalidMessage] = deque()
    with Consumer(
        channel,
        [Queue(QUEUE, no_declare=True)],
        on_message=lambda message: pending.append(read_delivery(message, parse)),
        auto_declare=False,
    ):
        while len(pending) < count:
            connection.drain_events(timeout=10)
    return pending


def left(connection: Connection) -> list[int]:
    """The sequences of what waits in the queue; it is gone from there."""
    queue = Queue(QUEUE)(connection.channel())
    found = []
    while message := queue.get(no_ack=True, accept=None):
        found.append(json.loads(message.body)["sequence"])
    return found


def sequences(batch: Sequence[Delivery]) -> list[int]:
    return [delivery.event.sequence for delivery in batch]


def test_a_batch_is_acknowledged_and_nothing_behind_it(connection: Connection) -> None:
    """What was delivered with it, and not taken yet, comes again."""
    tell(
        connection,
        *[event("allocated", sequence) for sequence in (1, 2, 3)],
        b"{",
        *[event("allocated", sequence) for sequence in (4, 5)],
    )
    channel = connection.channel()
    pending = receive(connection, channel, 6)

    batch = take_batch(pending)
    assert not isinstance(batch, InvalidMessage)
    acknowledge(batch)
    invalid = take_batch(pending)
    assert isinstance(invalid, InvalidMessage)
    invalid.message.reject()
    channel.close()

    assert sequences(batch) == [1, 2, 3]
    assert eventually(lambda: left(connection), what="the events that were not taken") == [4, 5]


def test_events_that_came_back_again_and_again_are_taken_alone(connection: Connection) -> None:
    """Whoever takes them may die over one: the others are settled one by one."""
    tell(connection, *[event("allocated", sequence) for sequence in (1, 2, 3)])
    taken = []

    for _ in range(3):
        channel = connection.channel()
        pending = receive(connection, channel, 3)
        came = [delivery.message for delivery in pending]
        batch = take_batch(pending)
        assert not isinstance(batch, InvalidMessage)
        taken.append(sequences(batch))
        for message in came:
            message.requeue()
        channel.close()

    assert taken == [[1, 2, 3], [1, 2, 3], [1]]


@pytest.fixture
def prepared(warehouse: Warehouse) -> Warehouse:
    """With its tables, for gates to stand at."""
    MIGRATIONS.upgrade(warehouse.engine)
    return warehouse


def in_queue(warehouse: Warehouse) -> int:
    with Connection(warehouse.broker_url) as connection:
        return connection.channel().queue_declare(QUEUE, passive=True).message_count


def test_what_waits_in_the_queue_is_taken_together_and_acknowledged(warehouse: Warehouse) -> None:
    """After a clean stop nothing comes back."""
    events = life(250)
    warehouse.tell(*events)

    process = warehouse.start()
    eventually(lambda: warehouse.picks() == expected(events), within=30, what="every pick")

    assert process.stop() == 0
    assert in_queue(warehouse) == 0


def test_an_event_that_fails_harms_no_other_of_its_batch(warehouse: Warehouse) -> None:
    """It alone is dead-lettered, after its own five tries."""
    events = life(60)
    clash = event("allocated", 30, orderid="another") | {"id": str(uuid4())}  # one number twice
    warehouse.tell(*events[:40], clash, *events[40:])

    process = warehouse.start()

    eventually(lambda: warehouse.picks() == expected(events), within=30, what="the others' picks")
    [letter] = eventually(warehouse.dead, what="the dead letter")
    assert (letter.headers["x-reason"], letter.headers["x-attempts"]) == ("failed", 5)
    assert "IntegrityError" in letter.headers["x-error"]
    assert as_bytes(letter.body) == as_bytes(clash)
    assert "a batch failed: bisecting it" in process.logs()
    assert process.stop() == 0
    assert in_queue(warehouse) == 0


def test_a_batch_whose_consumer_dies_at_the_commit_comes_again_and_takes_effect_once(
    prepared: Warehouse,
) -> None:
    """All of it: the notes, the effects and the acknowledgement go together."""
    events = life(60)
    prepared.tell(*events)
    gate = Gate(prepared.engine, "picks", deferred=True)

    with gate.shut():
        process = prepared.start(ready=False)
        gate.wait_for_somebody()
        process.kill()
        gate.cut_off()
    nothing = prepared.picks()
    prepared.start()

    eventually(lambda: prepared.picks() == expected(events), within=30, what="every pick")
    assert nothing == []
    assert prepared.dead() == []


def test_a_database_that_is_lost_in_the_middle_of_a_batch_costs_no_event(
    prepared: Warehouse,
) -> None:
    """The process waits for it, and takes the batch again."""
    events = life(60)
    prepared.tell(*events)
    gate = Gate(prepared.engine, "picks")

    with gate.shut():
        process = prepared.start(ready=False)
        gate.wait_for_somebody()
        gate.cut_off()
        process.wait_for_log("is not being consumed")

    eventually(lambda: prepared.picks() == expected(events), within=30, what="every pick")
    assert prepared.dead() == []
    assert "a batch failed" not in process.logs()
