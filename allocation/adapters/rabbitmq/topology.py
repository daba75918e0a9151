"""Exchanges and queues: every name and argument of the broker's side, declared in one place."""

from collections.abc import Sequence
from dataclasses import dataclass

from amqp import Channel
from amqp.exceptions import AccessRefused, PreconditionFailed
from kombu import Connection, Exchange, Queue
from kombu.transport.native_delayed_delivery import (
    CELERY_DELAYED_DELIVERY_EXCHANGE,
    bind_queue_to_native_delayed_delivery_exchange,
    declare_native_delayed_delivery_exchanges_and_queues,
)

from allocation.messaging.outages import is_missing

COMMANDS = "allocation.commands"
DEAD = "allocation.dead"
EVENTS = "allocation.events"
SUBSCRIBERS = ("warehouse.events", "notification.events")
INBOUND = "allocation.inbound"
INBOUND_DEAD = "allocation.inbound.dead"
WORKERS = "allocation.workers"
"""Where commands are partitioned, this queue counts the workers: see `partitioning`."""

# Replicated and on disk.
_QUORUM = {"x-queue-type": "quorum"}


class Undeclared(Exception):
    """The broker refused a part of the topology; the text says which, and what to do."""


def _lasting(dead: str) -> dict[str, object]:
    return _QUORUM | {
        # A message that keeps killing its consumer ends in the dead-letter queue.
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead,
        # A dead letter leaves its queue only once the dead-letter queue has it.
        "x-dead-letter-strategy": "at-least-once",
        # That strategy needs this overflow: a full queue refuses, it does not drop.
        "x-overflow": "reject-publish",
        # A week at three messages a second. A message takes about 1 kB on disk and 100 bytes of
        # memory, so a full queue takes 2 GB and 200 MB: the broker lives on, and the relay keeps
        # the rest as rows of the database.
        "x-max-length": 2_000_000,
        # However large the messages of others are.
        "x-max-length-bytes": 4 * 2**30,
    }


def _dead(name: str) -> Queue:
    arguments = _QUORUM | {
        # Looking at a dead letter returns it, which counts as a delivery. RabbitMQ 4 drops a
        # message at the 20th unless told otherwise: this many are never reached.
        "x-delivery-limit": 2_000_000_000,
        # And no length limit: a dead letter must never be refused.
    }
    # An exchange of its own: a user who may write to the default one may write to every queue.
    exchange = Exchange(name, type="fanout", durable=True)
    return Queue(name, exchange=exchange, durable=True, queue_arguments=arguments)


def commands_exchange() -> Exchange:
    """A topic, so that the broker itself can hold delayed retries."""
    return Exchange(COMMANDS, type="topic", durable=True)


def commands_queue(*, declared: bool = False) -> Queue:
    """The queue that the allocation workers share; `declared` already, they only use it."""
    return Queue(
        COMMANDS,
        exchange=commands_exchange(),
        routing_key=COMMANDS,
        durable=True,
        queue_arguments=_lasting(DEAD),
        no_declare=declared,
    )


def events_exchange() -> Exchange:
    """The fanout on which everything that happened is told."""
    return Exchange(EVENTS, type="fanout", durable=True)


def inbound_queue(*, declared: bool = False) -> Queue:
    """The queue of what other systems tell us; `declared` already, it is only used."""
    return Queue(
        INBOUND,
        # A topic, whose key is the event's type: others may bind queues of their own to some types.
        exchange=Exchange(INBOUND, type="topic", durable=True),
        # Whatever the key is: what can't be understood is to be seen among the dead letters.
        routing_key="#",
        durable=True,
        queue_arguments=_lasting(INBOUND_DEAD),
        no_declare=declared,
    )


def queues() -> list[Queue]:
    """Every queue of this system, each dead-letter queue before the queue that needs it.

    Where commands are partitioned, other queues stand for that of the commands: see `partitioning`.
    """
    declared = [_dead(DEAD), commands_queue(), _dead(INBOUND_DEAD), inbound_queue()]
    for name in SUBSCRIBERS:
        declared += [
            _dead(f"{name}.dead"),
            Queue(
                name,
                exchange=events_exchange(),
                durable=True,
                queue_arguments=_lasting(f"{name}.dead"),
            ),
        ]
    return declared


def declare(connection: Connection, *, partitioned: bool = False) -> list[str]:
    """Make every exchange and queue that is not there; returns the names of our own queues.

    Without the commands' queue if they are `partitioned`. Safe to repeat. Raises Undeclared where
    one exists with other arguments, or the user may not.
    """
    declared = [queue for queue in queues() if not (partitioned and queue.name == COMMANDS)]
    try:
        with connection.channel() as channel:
            commands_exchange()(channel).declare()
            for queue in declared:
                queue(channel).declare()
        if connection.transport.driver_type == "amqp":
            # In these Celery lets the broker hold a retry until its time has come.
            declare_native_delayed_delivery_exchanges_and_queues(connection, "quorum")
            if partitioned:
                with connection.channel() as channel:
                    channel.exchange_bind(
                        COMMANDS, CELERY_DELAYED_DELIVERY_EXCHANGE, f"#.{COMMANDS}"
                    )
            else:
                bind_queue_to_native_delayed_delivery_exchange(connection, commands_queue())
    except PreconditionFailed as error:
        raise Undeclared(
            f"the broker has one of the queues with other arguments: {error.reply_text}. Arguments"
            " can't be changed: stop its publishers, let its consumers empty it, delete it"
            " (`rabbitmqctl delete_queue NAME`), and run `allocation topology` again"
        ) from error
    except AccessRefused as error:
        raise Undeclared(
            f"the broker's user may not declare the topology: {error.reply_text}."
            " Run `allocation topology` with the URL of a user who may configure everything"
        ) from error
    return [queue.name for queue in declared]


def require(channel: Channel) -> None:
    """Raise the channel's 404 when a subscriber's queue is missing; needs no right.

    A fanout that finds one of two queues is content: nothing else would tell.
    """
    *others, last = SUBSCRIBERS
    for name in others:
        channel.queue_declare(name, passive=True, nowait=True)
    # The broker works in order: its one answer is about them all.
    channel.queue_declare(last, passive=True)


def bind(channel: Channel) -> None:
    """`require` them, and bind those that somebody unbound: nothing tells of these at all.

    Needs no right to configure, only to write to the queues and to read from the exchange.
    """
    for queue in queues():
        if queue.name in SUBSCRIBERS:
            queue(channel).queue_bind()


def names(of_commands: Sequence[str] = ()) -> list[str]:
    """The name of every queue; `of_commands` names the partitions, if there are any."""
    found: list[str] = []
    for queue in queues():
        found += (of_commands or [COMMANDS]) if queue.name == COMMANDS else [queue.name]
    return found


def dead_queues() -> dict[str, str]:
    """Each dead-letter queue, and the queue whose letters it takes."""
    return {DEAD: COMMANDS, INBOUND_DEAD: INBOUND} | {f"{name}.dead": name for name in SUBSCRIBERS}


@dataclass(frozen=True, slots=True)
class Queued:
    """The messages of a queue that are ready, not in flight, and the number of its consumers."""

    messages: int
    consumers: int


def queued(connection: Connection, name: str) -> Queued | None:
    """The state of the queue, or None if it does not exist. Needs no permission at the broker."""
    try:
        with connection.channel() as channel:
            found = channel.queue_declare(name, passive=True)
    except connection.channel_errors as error:
        if not is_missing(error):
            raise
        return None
    return Queued(int(found.message_count), int(found.consumer_count))


def depth(connection: Connection, name: str) -> int | None:
    """Messages that wait in the queue; None when there is no such queue."""
    found = queued(connection, name)
    return None if found is None else found.messages
