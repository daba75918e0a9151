"""Hearing the events: a queue of one's own, read one event after the other."""

import logging
import time
from collections import deque
from contextlib import suppress
from typing import Any, Self

from amqp.exceptions import AccessRefused, ChannelError, NotFound, PreconditionFailed
from kombu import Connection, Consumer, Exchange, Queue

from allocation.client.broker import LOST, Broker
from allocation.client.errors import ClientError, Unauthorized, Unreachable
from allocation.client.messages import Event, event
from allocation.client.patience import Patience

log = logging.getLogger(__name__)

_EVENTS = "allocation.events"
_MOMENT = 0.2  # seconds
_AT_ONCE = 100  # events that come before the first is acknowledged

_REFUSALS: dict[type[ChannelError], tuple[type[ClientError], str]] = {
    AccessRefused: (Unauthorized, "the broker refuses the user"),
    NotFound: (
        Unreachable,
        "the broker has no exchange for events: `allocation topology` declares it",
    ),
    PreconditionFailed: (
        ClientError,
        "a queue or exchange of this name exists with other properties",
    ),
}


def listen(
    broker_url: str, queue: str, *, quiet: float | None = None, patience: float = 300.0
) -> "Listener":
    """The events on the queue `queue`, from when it was first listened to: also those meanwhile.

        with listen("amqp://...", "shop.events") as events:
            for event in events:
                ...

    An event is acknowledged when the loop goes on to the next, or the `with` ends without an
    exception. After an exception, a kill or a lost connection it comes again: at least once, known
    by its `id`. What comes for the 20th time, or is no event, goes to the queue `<queue>.dead`.

    Declares both queues. The loop ends when nothing came for `quiet` seconds (None: never). A lost
    broker is tried again for `patience` seconds, then Unreachable is raised.
    """
    return Listener(broker_url, queue, quiet=quiet, patience=patience)


class Listener:
    """What `listen` gives: a context manager and an iterator. For one thread."""

    def __init__(
        self, broker_url: str, queue: str, *, quiet: float | None, patience: float
    ) -> None:
        self._broker = Broker(broker_url)
        self._name = queue
        self._quiet = quiet
        self._patience = patience
        self._connection: Connection | None = None
        self._arrived: deque[Any] = deque()
        self._current: Any = None

    def __enter__(self) -> Self:
        self._connect()
        return self

    def __exit__(self, failure: type[BaseException] | None, *_: object) -> None:
        if failure is None:
            self._acknowledge()
        self._disconnect()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Event:
        self._acknowledge()
        heard = time.monotonic()
        while self._quiet is None or time.monotonic() - heard < self._quiet:
            try:
                if (told := self._next(self._connection or self._connect())) is not None:
                    return told
            except LOST as error:
                log.warning("the connection to the broker is lost, reconnecting: %r", error)
                self._disconnect()
        raise StopIteration

    def _next(self, connection: Connection) -> Event | None:
        """The next event; None when none came for a moment, or it was none."""
        if not self._arrived:
            with suppress(TimeoutError):
                connection.drain_events(timeout=_MOMENT)
        if not self._arrived:
            return None
        message = self._arrived.popleft()
        try:
            told = event(message.body)
        except ValueError as error:
            log.warning("a message is dead-lettered to %s.dead: %s", self._name, error)
            message.reject()
            return None
        self._current = message
        return told

    def _acknowledge(self) -> None:
        message, self._current = self._current, None
        if message is not None:
            try:
                message.ack()
            except LOST as error:
                log.warning("the last event will be delivered again: %r", error)
                self._disconnect()

    def _connect(self) -> Connection:
        patience = Patience(self._patience)
        while True:
            self._connection = self._broker.connect(patience=patience)
            try:
                self._consume(self._connection.channel())
                return self._connection
            except (AccessRefused, NotFound, PreconditionFailed) as error:
                self._disconnect()
                kind, why = _REFUSALS[type(error)]
                raise kind(f"{why}: {error.reply_text}") from error
            except LOST as error:
                self._disconnect()
                if not patience.pause():
                    raise Unreachable(
                        f"the connection to the broker is lost repeatedly ({error!r})"
                    ) from error

    def _consume(self, channel: Any) -> None:
        dead, queue = _queues(self._name)
        dead(channel).declare()
        queue(channel).declare()
        channel.basic_qos(0, _AT_ONCE, False)
        Consumer(channel, [queue], on_message=self._arrived.append, auto_declare=False).consume()

    def _disconnect(self) -> None:
        connection, self._connection, self._current = self._connection, None, None
        self._arrived.clear()
        if connection is not None:
            with suppress(*LOST):
                connection.release()


def _queues(name: str) -> tuple[Queue, Queue]:
    """The dead-letter queue, and the queue itself."""
    quorum = {"x-queue-type": "quorum"}
    dead = f"{name}.dead"
    arguments = quorum | {
        "x-dead-letter-exchange": dead,
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",  # which that strategy asks for
        "x-delivery-limit": 20,
    }
    return (
        Queue(dead, Exchange(dead, type="fanout", durable=True), queue_arguments=quorum),
        Queue(
            name,
            Exchange(_EVENTS, type="fanout", no_declare=True),  # it is Allocation's
            durable=True,
            queue_arguments=arguments,
        ),
    )
