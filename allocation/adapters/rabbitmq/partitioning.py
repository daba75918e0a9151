"""Partitions of the commands: the queues and exchanges of a generation, and how routes move.

A generation is a number of queues. That of one queue is `allocation.commands` itself. With more,
the exchange `allocation.commands` passes each message on to the generation's exchange, which has a
binding for each slot. A message with a slot, which `celery_message` adds as a second routing key,
comes to the slot's queue. All others come to a queue by the consistent hash of their routing key.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from amqp.exceptions import InvalidCommand, PreconditionFailed
from kombu import Connection, Exchange, Queue

from allocation.adapters.rabbitmq import topology
from allocation.adapters.rabbitmq.topology import COMMANDS, WORKERS, Undeclared
from allocation.messaging.celery_message import SLOTS, slot_name

PLUGIN = "rabbitmq_consistent_hash_exchange"
MARK = "allocation.partitions"
"""An exchange that says that commands are, or were, partitioned; it carries no message."""

MOST = SLOTS
"""Partitions, at most: each has a slot."""

_SLOTS = frozenset(map(slot_name, range(SLOTS)))
_EVERYTHING = "#"
# A delayed message comes back with its delay before its key.
_DEFAULT_KEY = f"#.{COMMANDS}"


def queues(partitions: int) -> list[str]:
    """The names of the queues of a generation, in their order."""
    if partitions == 1:
        return [COMMANDS]
    width = len(str(partitions - 1))
    return [f"{COMMANDS}.{partitions}.{number:0{width}}" for number in range(partitions)]


def queue(name: str) -> Queue:
    """The queue of a partition, as workers use it: it is declared already."""
    return Queue(
        name,
        exchange=topology.commands_exchange(),
        routing_key=COMMANDS,
        durable=True,
        queue_arguments={"x-queue-type": "quorum"},
        no_declare=True,
    )


def keeping_partition(headers: Mapping[str, Any], partition: str) -> dict[str, Any]:
    """The headers with which a command stays in its partition when it is published again.

    A slot stays, else a second routing key names the partition.
    """
    match headers.get("CC"):
        case [str(key)] if key in _SLOTS:
            return dict(headers)
        case _:
            return {**headers, "CC": [_key(partition)]}


def as_before_death(headers: Mapping[str, Any]) -> Mapping[str, Any]:
    """The headers of a dead letter, with the `CC` that the broker removed.

    It notes the queue; a sender may have forged that.
    """
    match headers:
        case {"CC": _}:
            return headers
        case {"x-death": [{"queue": str(queue), "routing-keys": [_, str(key)]}, *_]}:
            return keeping_partition({**headers, "CC": [key]}, queue)
        case {"x-death": [{"queue": str(queue)}, *_]}:
            return keeping_partition(headers, queue)
        case _:
            return headers


def is_partitioned(connection: Connection) -> bool:
    """Whether `declare` was ever called; needs no right."""
    try:
        with connection.channel() as channel:
            channel.exchange_declare(MARK, "fanout", passive=True)
    except connection.channel_errors:
        return False
    return True


def declare(connection: Connection, partitions: int) -> None:
    """Make the queues and exchanges of a generation; by itself this routes nothing to them.

    Safe to repeat. Raises Undeclared, also where the broker lacks the plugin.
    """
    with connection.channel() as channel, _explained():
        entry, by_key = _entry(partitions), _by_key(partitions)
        if partitions > 1:
            # First: a broker without the plugin refuses it, and nothing was changed.
            Exchange(by_key, "x-consistent-hash", durable=True)(channel).declare()
            # What has no slot is not bound.
            otherwise = {"alternate-exchange": by_key}
            Exchange(entry, "direct", durable=True, arguments=otherwise)(channel).declare()
        Exchange(MARK, "fanout", durable=True)(channel).declare()
        _workers()(channel).declare()
        names = queues(partitions)
        for name in names:
            Queue(name, durable=True, queue_arguments=_arguments(partitions))(channel).declare()
        if partitions == 1:
            return
        for name in names:
            channel.queue_bind(name, by_key, routing_key="1")
            channel.queue_bind(name, entry, routing_key=_key(name))
        for slot in range(SLOTS):
            channel.queue_bind(names[slot % partitions], entry, routing_key=slot_name(slot))


def route(connection: Connection, partitions: int) -> None:
    """Have all commands that are published from now on come to these queues, too."""
    with connection.channel() as channel:
        if partitions == 1:
            channel.queue_bind(COMMANDS, COMMANDS, routing_key=_EVERYTHING)
        else:
            channel.exchange_bind(_entry(partitions), COMMANDS, _EVERYTHING)


def end_route(connection: Connection, partitions: int) -> None:
    """Undo `route`."""
    with connection.channel() as channel:
        if partitions == 1:
            for key in (_EVERYTHING, _DEFAULT_KEY, COMMANDS):
                channel.queue_unbind(COMMANDS, COMMANDS, routing_key=key)
        else:
            channel.exchange_unbind(_entry(partitions), COMMANDS, _EVERYTHING)


def delete(connection: Connection, partitions: int) -> None:
    """Delete the queues and exchanges of a generation."""
    with connection.channel() as channel:
        for name in queues(partitions):
            channel.queue_delete(name)
        if partitions > 1:
            for exchange in (_entry(partitions), _by_key(partitions)):
                channel.exchange_delete(exchange)


def queued(connection: Connection, partitions: int) -> topology.Queued:
    """The ready messages of all these queues, and the consumers of all."""
    found = [topology.queued(connection, name) for name in queues(partitions)]
    known = [each for each in found if each is not None]
    return topology.Queued(
        sum(each.messages for each in known), sum(each.consumers for each in known)
    )


def _entry(partitions: int) -> str:
    return f"{COMMANDS}.{partitions}"


def _key(queue: str) -> str:
    # One word: the exchanges of delayed messages take digits between dots for a delay.
    return queue.replace(".", "-")


def _by_key(partitions: int) -> str:
    return f"{_entry(partitions)}.by-key"


def _workers() -> Queue:
    """A queue that stays empty: its consumers are the workers, which it counts.

    The queue of a partition counts the worker alone that has it.
    """
    return Queue(WORKERS, durable=True, queue_arguments={"x-queue-type": "quorum"})


def _arguments(partitions: int) -> dict[str, object]:
    arguments = topology.commands_queue().queue_arguments
    if partitions == 1:
        return arguments
    # Together at most four times as much as the one queue holds: one of them may get most.
    share = min(partitions, 4)
    limits = {name: arguments[name] // share for name in ("x-max-length", "x-max-length-bytes")}
    return arguments | limits | {"x-single-active-consumer": True}


@contextmanager
def _explained() -> Iterator[None]:
    try:
        yield
    except (InvalidCommand, PreconditionFailed) as error:
        if "exchange type" not in error.reply_text:
            raise Undeclared(
                f"the broker has a part of the partitions with other arguments: {error.reply_text}"
            ) from error
        raise Undeclared(
            f"the broker lacks the plugin {PLUGIN}, which comes with RabbitMQ: run"
            f" `rabbitmq-plugins enable {PLUGIN}` on each node, and `allocation topology` again"
        ) from error
