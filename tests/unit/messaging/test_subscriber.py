"""Which deliveries are processed together, without a broker."""

import json
from collections import deque
from typing import Any

from kombu.message import Message

from allocation.messaging.cloudevents import Envelope, Unreadable
from allocation.messaging.subscriber import (
    BATCH_SIZE,
    Delivery,
    InvalidMessage,
    acknowledge,
    read_delivery,
    take_batch,
)
from tests.workers.conftest import event

CLOUDEVENT = "application/cloudevents+json"


class Channel:
    """Remembers which messages a consumer acknowledged."""

    no_ack_consumers: frozenset[str] = frozenset()

    def __init__(self) -> None:
        self.acknowledged: list[tuple[object, bool]] = []

    def basic_ack(self, delivery_tag: object, multiple: bool = False) -> None:
        self.acknowledged.append((delivery_tag, multiple))


def message(sequence: int, body: bytes | None = None, **options: Any) -> Message:
    known = json.dumps(event("allocated", sequence)).encode() if body is None else body
    return Message(known, content_type=CLOUDEVENT, **{"delivery_tag": sequence} | options)


def accept(_event: Envelope) -> None:
    """A subscriber for which every event is valid."""


def deliveries(*messages: Message) -> deque[Delivery | InvalidMessage]:
    return deque(read_delivery(each, accept) for each in messages)


def batches(pending: deque[Delivery | InvalidMessage]) -> list[list[int] | str]:
    """Each batch by its sequences, or the problem of an invalid message."""
    found: list[list[int] | str] = []
    while pending:
        batch = take_batch(pending)
        if isinstance(batch, InvalidMessage):
            found.append(str(batch.problem))
        else:
            found.append([delivery.event.sequence for delivery in batch])
    return found


def test_pending_events_are_one_batch() -> None:
    assert batches(deliveries(message(1), message(2), message(3))) == [[1, 2, 3]]


def test_a_batch_has_a_limit() -> None:
    pending = deliveries(*(message(number) for number in range(1, BATCH_SIZE + 3)))

    sizes = [len(batch) for batch in batches(pending)]

    assert sizes == [BATCH_SIZE, 2]


def test_an_invalid_message_ends_the_batch_before_it() -> None:
    pending = deliveries(message(1), message(2, b"[]"), message(3))

    assert batches(pending) == [[1], "the body is not a JSON object", [3]]


def test_an_event_that_was_redelivered_often_is_a_batch_of_its_own() -> None:
    pending = deliveries(
        message(1),
        message(2),
        message(3, headers={"x-delivery-count": 2}),
        message(4),
        message(5, headers={"x-delivery-count": 1}),
    )

    assert batches(pending) == [[1, 2], [3], [4, 5]]


def test_a_message_that_the_subscriber_cannot_parse_is_invalid() -> None:
    def refuse(_event: Envelope) -> None:
        raise Unreadable("a field is missing")

    found = read_delivery(message(1), refuse)

    assert isinstance(found, InvalidMessage)
    assert str(found.problem) == "a field is missing"


def test_replayed_events_are_known_by_their_header() -> None:
    plain, first, later = (
        read_delivery(message(1, headers=headers), accept)
        for headers in ({}, {"x-replay": "first"}, {"x-replay": "next"})
    )

    assert isinstance(plain, Delivery)
    assert isinstance(first, Delivery)
    assert isinstance(later, Delivery)
    assert [(each.replayed, each.oldest) for each in (plain, first, later)] == [
        (False, False),
        (True, True),
        (True, False),
    ]


def test_rabbitmq_acknowledges_a_batch_by_its_last_number() -> None:
    channel = Channel()
    batch = take_batch(deliveries(*(message(tag, channel=channel) for tag in (1, 2, 3))))
    assert not isinstance(batch, InvalidMessage)

    acknowledge(batch)

    assert channel.acknowledged == [(3, True)]


def test_the_embedded_broker_acknowledges_each_message_by_its_name() -> None:
    channel = Channel()
    messages = (message(tag, channel=channel, delivery_tag=f"tag-{tag}") for tag in (1, 2))
    batch = take_batch(deliveries(*messages))
    assert not isinstance(batch, InvalidMessage)

    acknowledge(batch)

    assert channel.acknowledged == [("tag-1", False), ("tag-2", False)]
