"""Publishing many messages at once, and knowing of each whether the broker has it."""

import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Protocol
from uuid import UUID

import amqp
from kombu import Connection, Producer
from kombu.exceptions import ChannelError

from allocation.adapters import topology

CONFIRM_TIMEOUT = 10.0
"""Seconds without a confirm after which the connection counts as lost."""
BIND_EVERY = 5.0
"""Seconds that a subscriber's queue stays unbound at most, once somebody unbound it."""


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One persistent message; `id` is also its AMQP message id."""

    id: UUID
    exchange: str
    routing_key: str
    body: str
    content_type: str
    headers: Mapping[str, object] = field(default_factory=dict)
    properties: Mapping[str, str] = field(default_factory=dict)


class Publisher(Protocol):
    def publish(self, messages: Sequence[Outgoing]) -> set[UUID]:
        """Send all, in order; the ids that reached a queue which will keep them.

        A message that no queue takes, or that the broker turns down, is missing from the answer.
        Raises the connection's own errors; then nothing is known of any of them. One of these is
        the 404 of a subscriber's queue that is missing: what it missed must be sent again.
        """
        ...


def publisher(connection: Connection) -> Publisher:
    """The publisher that suits the connection's transport."""
    if connection.transport.driver_type == "amqp":
        return AmqpPublisher(connection)
    return SpoolPublisher(connection)


class AmqpPublisher:
    """Pipelined confirms: all messages go out first, then all confirms are awaited.

    kombu waits for each confirm before the next message, which is six times slower; so this works
    on py-amqp's channel.
    """

    def __init__(self, connection: Connection) -> None:
        """Raises the channel's 404 when a subscriber's queue is missing."""
        self._connection = connection
        self._channel: amqp.Channel = connection.channel()
        self._channel.confirm_select()
        self._channel.events["basic_ack"].add(self._settle(self._acked))
        self._channel.events["basic_nack"].add(self._settle(lambda _: None))
        self._channel.events["basic_return"].add(self._returned)
        self._tag = 0
        self._pending: dict[int, UUID] = {}
        self._confirmed: set[UUID] = set()
        self._unroutable: set[UUID] = set()
        self._bound = 0.0
        self._bind_subscribers()

    def publish(self, messages: Sequence[Outgoing]) -> set[UUID]:
        self._confirmed, self._unroutable = set(), set()
        self._bind_subscribers()
        for message in messages:
            self._tag += 1
            self._pending[self._tag] = message.id
            self._channel.basic_publish(
                amqp.Message(
                    message.body,
                    content_type=message.content_type,
                    content_encoding="utf-8",
                    delivery_mode=2,
                    message_id=str(message.id),
                    application_headers=dict(message.headers),
                    **message.properties,
                ),
                exchange=message.exchange,
                routing_key=message.routing_key,
                mandatory=True,
                timeout=CONFIRM_TIMEOUT,
            )
        self._await_confirms()
        # Without a subscriber's queue none of these counts as told.
        topology.require(self._channel)
        # A message that no queue takes is returned first, and then confirmed all the same.
        return self._confirmed - self._unroutable

    def _await_confirms(self) -> None:
        deadline = time.monotonic() + CONFIRM_TIMEOUT
        while waiting := len(self._pending):
            # In slices: a heartbeat begins the wait anew, and a broker that is short of memory or
            # disk confirms nothing, and goes on to send these.
            with suppress(TimeoutError):
                self._connection.drain_events(timeout=1)
            if len(self._pending) < waiting:
                deadline = time.monotonic() + CONFIRM_TIMEOUT
            elif time.monotonic() > deadline:
                raise TimeoutError(
                    "the broker confirms nothing: is it short of memory or disk? Its log says"
                )

    def _bind_subscribers(self) -> None:
        if time.monotonic() - self._bound > BIND_EVERY:
            topology.bind(self._channel)
            self._bound = time.monotonic()

    def _settle(self, each: Callable[[UUID], None]) -> Callable[[int, bool], None]:
        def settle(tag: int, multiple: bool) -> None:
            tags = [known for known in self._pending if known <= tag] if multiple else [tag]
            for known in tags:
                each(self._pending.pop(known))

        return settle

    def _acked(self, message_id: UUID) -> None:
        self._confirmed.add(message_id)

    def _returned(
        self, _error: Exception, _exchange: str, _routing_key: str, message: amqp.Message
    ) -> None:
        self._unroutable.add(UUID(message.properties["message_id"]))


class SpoolPublisher:
    """The embedded broker: a message is in its queues when `publish` returns."""

    def __init__(self, connection: Connection) -> None:
        self._producer = Producer(connection.channel())

    def publish(self, messages: Sequence[Outgoing]) -> set[UUID]:
        return {message.id for message in messages if self._publish(message)}

    def _publish(self, message: Outgoing) -> bool:
        try:
            self._producer.publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                content_type=message.content_type,
                content_encoding="utf-8",
                headers=dict(message.headers),
                message_id=str(message.id),
                mandatory=True,
                **message.properties,
            )
        except ChannelError:
            return False
        return True
