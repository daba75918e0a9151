"""Publishes many messages at once, and says of each whether the broker confirmed it."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import takewhile
from math import inf
from typing import Protocol

import amqp
from kombu import Connection, Producer
from kombu.exceptions import ChannelError, OperationalError

from allocation.messaging import backoff

CONFIRM_TIMEOUT = 10.0
"""Seconds without a confirm after which the connection counts as lost."""
READ_TIMEOUT = 0.001
"""Seconds without a confirm after which no more have arrived."""
CONNECT_WITHIN = 0.75
"""Seconds after which a DirectPublisher that had to connect sends nothing this time."""
GIVE_UP_AFTER = 1.0
"""Seconds after which a DirectPublisher waits for no more confirms."""
AT_ONCE = 500
"""Messages that a DirectPublisher sends before it waits for their confirms."""
BIND_EVERY = 5.0
"""Seconds between two calls of `bind`, after which a queue that somebody unbound is bound again."""

OnChannel = Callable[[amqp.Channel], None]


def _do_nothing(_: amqp.Channel) -> None:
    pass


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One persistent message; `id` is also its AMQP message id."""

    id: str
    exchange: str
    routing_key: str
    body: str
    content_type: str
    headers: Mapping[str, object] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)


class Publisher(Protocol):
    """Each method may raise the connection's errors; then the state of all messages is unknown."""

    def send(self, messages: Sequence[Outgoing]) -> None:
        """Send all, in order, without waiting for confirms."""
        ...

    def settle(self, most: int) -> dict[str, bool]:
        """Wait until at most `most` messages are unconfirmed.

        Returns for each message, by id, that was settled since the last call whether a queue keeps
        it.
        """
        ...


def publish(publisher: Publisher, messages: Sequence[Outgoing]) -> set[str]:
    """Send all, in order; returns the ids of the messages that a queue keeps."""
    publisher.send(messages)
    return {message_id for message_id, kept in publisher.settle(0).items() if kept}


def publisher(
    connection: Connection, *, bind: OnChannel = _do_nothing, require: OnChannel = _do_nothing
) -> Publisher:
    """The publisher that suits the connection's transport.

    On AMQP, `bind` binds the queues that must get the messages, at first and every BIND_EVERY
    seconds. `require` raises the channel's 404 if one of them is missing, before messages count as
    published: a fanout that finds one of two queues confirms all the same.
    """
    if connection.transport.driver_type == "amqp":
        return AmqpPublisher(connection, bind, require)
    return SpoolPublisher(connection)


class AmqpPublisher:
    """Sends many messages, then waits for their confirms together, on py-amqp's channel.

    kombu waits for each confirm before the next message, which is six times slower.
    """

    def __init__(self, connection: Connection, bind: OnChannel, require: OnChannel) -> None:
        self._connection = connection
        self._bind = bind
        self._require = require
        self._channel: amqp.Channel = connection.channel()
        self._channel.confirm_select()
        # py-amqp would look for a blocked connection before each message, which takes half as long
        # as a message; here missing confirms say it.
        self._channel.connection.client_properties["capabilities"]["connection.blocked"] = False
        self._channel.events["basic_ack"].add(self._on_confirm(kept=True))
        self._channel.events["basic_nack"].add(self._on_confirm(kept=False))
        self._channel.events["basic_return"].add(self._returned)
        self._tag = 0
        self._pending: dict[int, str] = {}
        self._confirmed_at = 0.0  # when the broker last confirmed or refused something
        self._settled: dict[str, bool] = {}
        self._unroutable: set[str] = set()
        self._bound_at = 0.0
        self._bind_again()

    def send(self, messages: Sequence[Outgoing]) -> None:
        self._bind_again()
        if not self._pending:
            self._confirmed_at = time.monotonic()
        with _one_write(self._channel.connection):
            for message in messages:
                self._send(message)

    def _send(self, message: Outgoing) -> None:
        self._tag += 1
        self._pending[self._tag] = message.id
        self._channel.basic_publish(
            amqp.Message(
                message.body,
                content_type=message.content_type,
                content_encoding="utf-8",
                delivery_mode=2,
                message_id=message.id,
                application_headers=dict(message.headers),
                **message.properties,
            ),
            exchange=message.exchange,
            routing_key=message.routing_key,
            mandatory=True,
        )

    def settle(self, most: int, until: float = inf) -> dict[str, bool]:
        """As Publisher says, but waits until `until` at the longest, by the monotonic clock."""
        with suppress(TimeoutError):
            while self._pending:
                self._connection.drain_events(timeout=READ_TIMEOUT)
        while self._pending and (len(self._pending) > most or self._is_silent()):
            # In slices: a heartbeat begins the wait anew, and a broker that is short of memory or
            # disk goes on to send heartbeats.
            left = until - time.monotonic()
            if left <= 0:
                break
            if self._is_silent():
                raise TimeoutError(
                    "the broker does not confirm: is it short of memory or disk? Check its log"
                )
            with suppress(TimeoutError):
                self._connection.drain_events(timeout=min(left, 1))
        if self._settled:
            self._require(self._channel)
        settled, self._settled = self._settled, {}
        return settled

    def _is_silent(self) -> bool:
        return time.monotonic() - self._confirmed_at > CONFIRM_TIMEOUT

    def _bind_again(self) -> None:
        if time.monotonic() - self._bound_at > BIND_EVERY:
            self._bind(self._channel)
            self._bound_at = time.monotonic()

    def _on_confirm(self, kept: bool) -> Callable[[int, bool], None]:
        def on_confirm(tag: int, multiple: bool) -> None:
            self._confirmed_at = time.monotonic()
            # `_pending` is in the order of the tags.
            tags = list(takewhile(lambda known: known <= tag, self._pending)) if multiple else [tag]
            for known in tags:
                message_id = self._pending.pop(known)
                # A message that no queue takes is returned first, and then confirmed.
                self._settled[message_id] = kept and message_id not in self._unroutable
                self._unroutable.discard(message_id)

        return on_confirm

    def _returned(
        self, _error: Exception, _exchange: str, _routing_key: str, message: amqp.Message
    ) -> None:
        self._unroutable.add(message.properties["message_id"])


@contextmanager
def _one_write(connection: amqp.Connection) -> Iterator[None]:
    """Send all frames of the block to the broker together, at its end.

    py-amqp writes each message to the socket by itself, which takes as long as to build it. Its
    transports write by their private `_write`; without that attribute nothing is published.
    """
    transport = connection.transport
    write, frames = transport._write, bytearray()
    transport._write = frames.extend
    try:
        yield
    finally:
        transport._write = write
    if frames:
        transport.write(bytes(frames))


class Unconfirmed(Exception):
    """The broker refused messages, or did not confirm them in time."""


class DirectPublisher:
    """Publishes at once or not at all: it gives up soon, and raises no error of the broker.

    For a process that has other work to do, and whose messages an outbox relay publishes if this
    does not. It connects when it is first needed, so it may be built before a fork. After a failure
    it takes a new connection, and not before a backoff. One thread may use it.
    """

    def __init__(
        self,
        connections: Iterator[Connection],
        on_outage: Callable[[Exception, float], None],
        *,
        bind: OnChannel = _do_nothing,
        require: OnChannel = _do_nothing,
    ) -> None:
        """`connections` to RabbitMQ are not open yet, and publish without waiting for confirms.

        `on_outage` gets the error and the seconds of the backoff. For `bind` and `require` see
        `publisher`.
        """
        self._connections = connections
        self._on_outage = on_outage
        self._bind = bind
        self._require = require
        self._open: tuple[Connection, AmqpPublisher] | None = None
        self._failures = 0
        self._next_try = 0.0

    @property
    def is_ready(self) -> bool:
        """Whether no failure is so recent that it is too early for another try."""
        return time.monotonic() >= self._next_try

    def publish(self, messages: Sequence[Outgoing]) -> set[str]:
        """Send all, in order; returns the ids of those that a queue keeps, as far as confirmed.

        It sends none if it took long to connect.
        """
        kept: set[str] = set()
        begun = time.monotonic()
        connection, publisher = self._open or (next(self._connections), None)
        # An exception may come from anywhere, such as of a time limit. Then it is unknown how many
        # messages were sent, and the next confirms would be taken for those of others.
        self._open = None
        lost = (OSError, *connection.connection_errors, *connection.channel_errors)
        try:
            if publisher is None:
                publisher = self._connect(connection)
                if time.monotonic() - begun > CONNECT_WITHIN:
                    messages = []
            until = time.monotonic() + GIVE_UP_AFTER
            for first in range(0, len(messages), AT_ONCE):
                part = messages[first : first + AT_ONCE]
                publisher.send(part)
                settled = publisher.settle(0, until)
                confirmed = {message_id for message_id, is_kept in settled.items() if is_kept}
                kept |= confirmed
                if len(confirmed) < len(part):
                    raise Unconfirmed(
                        f"{len(part) - len(settled)} messages were not confirmed in time,"
                        f" {len(settled) - len(confirmed)} were refused"
                    )
        except (Unconfirmed, OperationalError, *lost) as error:
            connection.collect()  # don't close it: the broker may not answer
            self._failures += 1
            seconds = backoff.seconds(self._failures)
            self._next_try = time.monotonic() + seconds
            self._on_outage(error, seconds)
        else:
            self._open = connection, publisher
            self._failures = 0
        return kept

    def close(self) -> None:
        """Close the connection, if there is one."""
        if self._open is not None:
            self._open[0].release()
            self._open = None

    def _connect(self, connection: Connection) -> AmqpPublisher:
        connection.ensure_connection(max_retries=0)  # kombu would wait too long
        return AmqpPublisher(connection, self._bind, self._require)


class SpoolPublisher:
    """The embedded broker: a message is in its queues when `send` returns."""

    def __init__(self, connection: Connection) -> None:
        self._producer = Producer(connection.channel())
        self._settled: dict[str, bool] = {}

    def send(self, messages: Sequence[Outgoing]) -> None:
        for message in messages:
            self._settled[message.id] = self._publish(message)

    def settle(self, most: int) -> dict[str, bool]:
        settled, self._settled = self._settled, {}
        return settled

    def _publish(self, message: Outgoing) -> bool:
        try:
            self._producer.publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                content_type=message.content_type,
                content_encoding="utf-8",
                headers=dict(message.headers),
                message_id=message.id,
                mandatory=True,
                **message.properties,
            )
        except ChannelError:
            return False
        return True
