"""Spreads partitions over workers: whoever has more than its share gives the others up.

Every worker consumes the queue of every partition; RabbitMQ delivers the commands of each to one of
them, in the order of the queue, and to the next worker in the line once that one has left. So a
worker that leaves a queue and consumes it again has passed the partition on.
"""

from collections.abc import Callable, Iterable
from functools import partial

import kombu
import structlog
from kombu import Connection, Queue
from kombu.message import Message
from kombu.transport.base import StdChannel

from allocation.adapters.rabbitmq import partitioning, topology
from allocation.entrypoints.worker.acks import Acknowledgements, EventLoop

log = structlog.get_logger(__name__)

LOOK_EVERY = 2.0
"""Seconds between two looks at the number of workers, and at the queues to consume."""

SETTLED_WITHIN = 0.1
"""Seconds between two looks whether the commands of a partition that is given up are settled."""


def surplus(held: Iterable[str], partitions: int, workers: int) -> list[str]:
    """Which of the partitions that a worker holds it has beyond its share, at most one more."""
    share = -(-partitions // max(1, workers))
    return sorted(held)[share:]


class Member:
    """The consumer of one queue, on a channel of its own."""

    def __init__(self, consumer: kombu.Consumer) -> None:
        self.consumer = consumer
        self.holds = False
        """Whether the broker has delivered a command: it then delivers to no other worker."""
        self.is_leaving = False


class PartitionConsumer(kombu.Consumer):
    """Consumes each queue on a channel of its own, so that it can be given up by itself.

    A channel that is closed gives back everything that it did not acknowledge, in its order, and in
    one step of the broker with the change to the next worker. Cancelling would not: the next worker
    would get later commands while this one has earlier ones.
    """

    prefetch_count = 0

    def __init__(self, connection: Connection, *args: object, **options: object) -> None:
        self._connection = connection
        self.members: dict[str, Member] = {}
        super().__init__(connection, *args, **options)

    @property
    def held(self) -> list[str]:
        """The partitions that this worker certainly has."""
        return [name for name, member in self.members.items() if member.holds]

    def consume(self, no_ack: bool | None = None) -> None:
        """Consume each queue once, however often this is called, as remote control may do."""
        if not self.members:
            self.channel.basic_consume(topology.WORKERS, no_ack=True)
        for queue in self.queues:
            if queue.name not in self.members:
                self.join(queue.name)

    def join(self, name: str) -> None:
        """Consume a queue; the first in its line gets its commands."""
        channel = self._connection.channel()
        channel.basic_qos(0, self.prefetch_count, False)
        consumer = kombu.Consumer(
            channel,
            [Queue(name, no_declare=True)],
            on_decode_error=self.on_decode_error,
            accept=self.accept,
            auto_declare=False,
        )
        self.members[name] = member = Member(consumer)
        consumer.on_message = partial(self._receive, name, member)
        consumer.consume()

    def leave(self, name: str) -> None:
        """Give a queue up; what was not acknowledged goes to the next worker in its line."""
        self.members.pop(name).consumer.channel.close()

    def cancel(self) -> None:
        """Nothing: the connection that is closed next gives everything back, in order."""

    close = cancel

    def _receive(self, name: str, member: Member, message: Message) -> None:
        member.holds = True
        if not member.is_leaving:  # else it is given back with the channel
            # From now on, whatever becomes of it: a retry and a replay find the partition by this.
            message.headers = partitioning.keeping_partition(message.headers or {}, name)
            self.on_message(message)


class ChannelAcknowledgements:
    """The acknowledgements of many channels: `Acknowledgements` for each."""

    def __init__(self, make: Callable[[], Acknowledgements]) -> None:
        self._make = make
        self._of: dict[StdChannel, Acknowledgements] = {}

    def expect(self, message: Message) -> None:
        if (known := self._of.get(message.channel)) is None:
            known = self._of[message.channel] = self._make()
        known.expect(message)

    def settled(self, message: Message) -> None:
        if known := self._of.get(message.channel):
            known.settled(message)

    def add(self, message: Message) -> None:
        """Acknowledge a message soon; one of a channel that was closed is redelivered instead."""
        if known := self._of.get(message.channel):
            known.add(message)

    def is_settled(self, channel: StdChannel) -> bool:
        """Whether no message of the channel is open."""
        known = self._of.get(channel)
        return known is None or not known.has_open

    @property
    def all_settled(self) -> bool:
        return not any(each.has_open for each in self._of.values())

    def forget(self, channel: StdChannel | None = None) -> None:
        """Drop what is known of the channel, or of all: the broker redelivers what is open."""
        for each in [channel] if channel is not None else list(self._of):
            if known := self._of.pop(each, None):
                known.forget()


class Spreading:
    """Gives up the partitions that a worker has beyond its share."""

    def __init__(
        self,
        loop: EventLoop,
        consumer: PartitionConsumer,
        acknowledgements: ChannelAcknowledgements,
    ) -> None:
        self._loop = loop
        self._consumer = consumer
        self._acknowledgements = acknowledgements
        self._leaving: set[str] = set()

    def share(self, workers: int) -> None:
        """Give up what is too much beside so many workers, once its commands are settled."""
        staying = set(self._consumer.held) - self._leaving
        given_up = surplus(staying, len(self._consumer.members), workers)
        if not given_up:
            return
        log.info("partitions are given up to other workers", partitions=given_up, workers=workers)
        for name in given_up:
            self._consumer.members[name].is_leaving = True
        is_first = not self._leaving
        self._leaving |= set(given_up)
        if is_first:
            self._leave()

    def stop(self) -> None:
        """Forget what was begun: the connection is lost."""
        self._leaving.clear()

    def _leave(self) -> None:
        settled = [name for name in self._leaving if self._is_settled(name)]
        for name in settled:
            self._leaving.remove(name)
            self._acknowledgements.forget(self._channel(name))
            self._consumer.leave(name)
            self._consumer.join(name)
        if self._leaving:
            self._loop.call_later(SETTLED_WITHIN, self._leave)

    def _is_settled(self, name: str) -> bool:
        return self._acknowledgements.is_settled(self._channel(name))

    def _channel(self, name: str) -> StdChannel:
        return self._consumer.members[name].consumer.channel
