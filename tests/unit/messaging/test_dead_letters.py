import json
from collections.abc import Iterator
from typing import Any

import pytest
from kombu import Connection, Exchange, Queue
from kombu.message import Message

from allocation.messaging import dead_letters
from allocation.messaging.dead_letters import (
    CUT,
    LARGEST_BODY,
    DeadLetterPublisher,
    DeadLetterQueue,
    Incomplete,
    fetch,
    headers_of,
    send_again,
)

WHY = {"reason": "failed", "error": "ValueError: no", "attempts": 5, "last": "2030-01-31T12:00"}
MARKS = {"x-reason": "failed", "x-error": "ValueError: no", "x-attempts": 5}
HEADERS = {"id": "id-1", "task": "shop.pay", "retries": 4, "compression": "application/x-gzip"}


@pytest.fixture
def connection(request: pytest.FixtureRequest) -> Iterator[Connection]:
    """A broker in memory with the queue `orders`, and the queue of its dead letters."""
    with Connection("memory://", virtual_host=request.node.name) as made:
        channel = made.channel()
        Queue("orders")(channel).declare()
        dead = Exchange("orders.dead", type="fanout")
        Queue("orders.dead", exchange=dead)(channel).declare()
        yield made
        for name in ("orders", "orders.dead"):
            channel.queue_delete(name)


def publish(connection: Connection, body: bytes, **properties: Any) -> None:
    connection.Producer().publish(
        body, routing_key="orders", content_type="text/plain", **properties
    )


def take(connection: Connection, queue: str = "orders") -> Message:
    message = connection.default_channel.basic_get(queue)
    assert message is not None
    return message


def test_the_headers_say_why_beside_what_the_message_had() -> None:
    message = Message(b"body", headers={"id": "id-1"})

    assert headers_of(message, WHY) == {"id": "id-1", **MARKS, "x-last": "2030-01-31T12:00"}


def test_the_time_is_now_unless_it_is_given() -> None:
    headers = headers_of(Message(b"", headers={}), {"reason": "failed", "error": "no"})

    assert str(headers["x-last"]).endswith("+00:00")


def test_the_headers_hide_the_compression_from_readers_of_the_dead_letter() -> None:
    headers = headers_of(Message(b"x", headers={"compression": "application/x-gzip"}), WHY)

    assert (headers.get("compression"), headers["x-compression"]) == (None, "application/x-gzip")


@pytest.mark.parametrize(("size", "cut"), [(LARGEST_BODY, None), (LARGEST_BODY + 3, 3)])
def test_the_headers_count_what_is_cut_off_the_body(size: int, cut: int | None) -> None:
    forged = Message(b"x" * size, headers={CUT: 77})

    assert headers_of(forged, WHY).get(CUT) == cut


def test_a_dead_letter_is_published_whole_and_its_message_acknowledged(
    connection: Connection,
) -> None:
    publish(connection, b'{"id": "id-1"}', headers=HEADERS, message_id="m-1")
    message = take(connection)

    DeadLetterQueue(connection, "orders").dead_letter(message, WHY)

    [letter] = fetch(connection, "orders.dead", 10)
    assert (letter.id, letter.reason, letter.name) == ("id-1", "failed", "shop.pay")
    assert (letter.error, letter.kind, letter.attempts) == ("ValueError: no", "ValueError", 5)
    assert (letter.last, letter.cut) == ("2030-01-31T12:00", 0)
    assert letter.message.properties["message_id"] == "m-1"
    assert message.acknowledged


def test_a_large_body_is_cut_and_can_not_be_sent_again(connection: Connection) -> None:
    publish(connection, b"x" * (LARGEST_BODY + 3))
    DeadLetterQueue(connection, "orders").dead_letter(take(connection), WHY)

    [letter] = fetch(connection, "orders.dead", 10)

    assert (len(letter.message.body), letter.cut) == (LARGEST_BODY, 3)
    with pytest.raises(Incomplete, match="3 bytes of its body"):
        send_again(connection, "", "orders", letter)


def test_an_event_that_was_acknowledged_earlier_becomes_a_dead_letter(
    connection: Connection,
) -> None:
    event = {"id": "event-1", "type": "order.paid.v1"}

    DeadLetterQueue(connection, "orders").dead_letter_event(event, WHY)

    [letter] = fetch(connection, "orders.dead", 10)
    assert (letter.id, letter.name) == ("event-1", "order.paid.v1")
    assert (json.loads(letter.message.body), letter.message.content_type) == (
        event,
        "application/cloudevents+json",
    )


def test_a_message_that_is_sent_again_begins_a_new_life(connection: Connection) -> None:
    publish(connection, b"{}", headers=HEADERS | {"expires": "2020-01-01", "x-death": "x"})
    DeadLetterQueue(connection, "orders").dead_letter(take(connection), WHY)

    [letter] = fetch(connection, "orders.dead", 10)
    send_again(connection, "", "orders", letter)

    again = take(connection)
    assert again.headers == HEADERS | {"retries": 0}
    assert letter.message.acknowledged


def test_the_publisher_needs_no_consumer(connection: Connection) -> None:
    publish(connection, b"body")

    assert DeadLetterPublisher(lambda: connection).dead_letter(take(connection), "orders.dead", WHY)

    assert [letter.reason for letter in fetch(connection, "orders.dead", 10)] == ["failed"]


def test_a_broker_that_can_not_be_reached_is_no_exception_but_no_copy_either() -> None:
    unreachable = Connection("amqp://127.0.0.1:1", connect_timeout=1)
    made = DeadLetterPublisher(lambda: unreachable)

    assert not made.dead_letter(Message(b"x", headers={}), "orders.dead", WHY)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"x-death": "x", "x-attempts": {"a": 1}, CUT: "many"},
        {"x-death": [1, "a"], "x-first": 5, "x-reason": {"a": []}, "x-error": [1]},
    ],
)
@pytest.mark.parametrize("body", [b"", b"\xff", b"[]", b"[" * 100_000, "\ud800", '{"id": [1]}'])
def test_whatever_is_in_the_queue_can_be_read(headers: dict[str, Any], body: bytes | str) -> None:
    letter = dead_letters.read("orders.dead", Message(body, headers=headers))

    assert (letter.queue, letter.cut, letter.attempts) == ("orders.dead", 0, None)
    assert letter.id


def test_looking_at_a_dead_letter_does_not_change_its_id() -> None:
    counted = {"x-delivery-count": 3, "x-acquired-count": 4}
    before, after = (Message(b"x", headers={"a": 1, **each}) for each in ({}, counted))

    assert dead_letters.read("q", before).id == dead_letters.read("q", after).id


@pytest.mark.parametrize(
    ("body", "found"),
    [(b'{"a": 1}', {"a": 1}), (b"[]", {}), (b"{", {}), (b" " * LARGEST_BODY + b"{}", {})],
)
def test_the_object_in_a_body_is_found_if_there_is_one(body: bytes, found: object) -> None:
    assert dead_letters.object_in(body) == found
