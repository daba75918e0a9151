"""The consume loop on kombu's broker in memory."""

import threading
from collections import deque
from collections.abc import Iterator
from uuid import uuid4

import pytest
from kombu import Connection
from kombu.message import Message

from allocation.messaging.consumer import Consumer, Stopped


class DatabaseDown(Exception):
    pass


class Collector:
    """Collects what is pending, batch by batch, and stops the consumer at the last message."""

    def __init__(self, last: str, outages: int = 0) -> None:
        self.stop = threading.Event()
        self.batches: list[list[str]] = []
        self._last = last
        self._outages = outages

    def start(self, _connection: Connection) -> None:
        if self._outages:
            self._outages -= 1
            raise DatabaseDown

    def read(self, message: Message) -> Message:
        return message

    def process(self, pending: deque[Message]) -> None:
        bodies = [bytes(message.body).decode() for message in pending]
        self.batches.append(bodies)
        while pending:
            pending.popleft().ack()
        if self._last in bodies:
            self.stop.set()

    def tick(self, queue_messages: int) -> None:
        pass


def connect() -> Connection:
    return Connection("memory://")


@pytest.fixture
def queue() -> Iterator[str]:
    """A queue that holds the messages a, b and c."""
    name = f"queue-{uuid4()}"
    with connect() as connection:
        connection.channel().queue_declare(name)
        for body in "abc":
            connection.Producer().publish(body.encode(), exchange="", routing_key=name)
        yield name
        connection.channel().queue_delete(name)


def depth(queue: str) -> int:
    with connect() as connection:
        return int(connection.channel().queue_declare(queue, passive=True).message_count)


def test_messages_that_have_arrived_are_processed_together(queue: str) -> None:
    collector = Collector(last="c")

    Consumer[Message](queue, connect, batch_size=10, linger=0.5).run(collector, collector.stop)

    assert collector.batches == [["a", "b", "c"]]
    assert depth(queue) == 0


def test_after_an_outage_it_connects_again_and_processes_every_message(queue: str) -> None:
    collector = Collector(last="c", outages=1)
    consuming: list[float] = []
    consumer = Consumer[Message](
        queue,
        connect,
        batch_size=10,
        outages=[DatabaseDown],
        consuming=consuming.append,
    )

    consumer.run(collector, collector.stop)

    assert [body for batch in collector.batches for body in batch] == ["a", "b", "c"]
    assert consuming == [0, 1, 0]


def test_any_other_exception_of_the_handler_ends_the_loop(queue: str) -> None:
    collector = Collector(last="c", outages=1)

    with pytest.raises(DatabaseDown):
        Consumer[Message](queue, connect, batch_size=10).run(collector, collector.stop)

    assert depth(queue) == 3


def test_a_queue_is_declared_before_it_is_consumed_if_the_consumer_is_told_how() -> None:
    queue = f"queue-{uuid4()}"
    collector = Collector(last="only")

    def declare(connection: Connection) -> None:
        connection.channel().queue_declare(queue)
        connection.Producer().publish(b"only", exchange="", routing_key=queue)

    consumer = Consumer[Message](queue, connect, batch_size=10, declare=declare)
    consumer.run(collector, collector.stop)

    assert collector.batches == [["only"]]


def test_a_handler_that_waits_for_a_retry_is_stopped(queue: str) -> None:
    class Retrying(Collector):
        def process(self, pending: deque[Message]) -> None:
            self.stop.set()
            consumer.wait(60)
            self.batches.append([])

    retrying = Retrying(last="")
    consumer = Consumer[Message](queue, connect, batch_size=10)

    consumer.run(retrying, retrying.stop)

    assert retrying.batches == []
    with pytest.raises(Stopped):
        consumer.check_stop()
