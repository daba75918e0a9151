"""Exchanges and queues: every name and argument of the broker's side, declared in one place."""

from kombu import Connection, Exchange, Queue

COMMANDS = "allocation.commands"
DEAD = "allocation.dead"
EVENTS = "allocation.events"
SUBSCRIBERS = ("warehouse.events", "notification.events")

# Replicated and on disk; a message that keeps killing its consumer ends in the dead-letter queue.
_QUORUM = {"x-queue-type": "quorum"}


def _lasting(dead: str) -> dict[str, object]:
    return _QUORUM | {
        "x-delivery-limit": 20,
        "x-dead-letter-exchange": "",
        "x-dead-letter-routing-key": dead,
        # A dead letter leaves its queue only once the dead-letter queue has it.
        "x-dead-letter-strategy": "at-least-once",
        # That strategy needs this overflow: a full queue refuses, it does not drop.
        "x-overflow": "reject-publish",
    }


def commands_exchange() -> Exchange:
    """A topic, so that the broker itself can hold delayed retries."""
    return Exchange(COMMANDS, type="topic", durable=True)


def commands_queue() -> Queue:
    """The queue that the allocation workers share."""
    return Queue(
        COMMANDS,
        exchange=commands_exchange(),
        routing_key=COMMANDS,
        durable=True,
        queue_arguments=_lasting(DEAD),
    )


def events_exchange() -> Exchange:
    """The fanout on which everything that happened is told."""
    return Exchange(EVENTS, type="fanout", durable=True)


def queues() -> list[Queue]:
    """Every queue of this system, each dead-letter queue before the queue that needs it."""
    declared = [_dead(DEAD), commands_queue()]
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


def declare(connection: Connection) -> list[str]:
    """Make every exchange and queue that is not there; returns the queues' names.

    Safe to repeat. The broker refuses, and kombu raises, where one exists with other arguments.
    """
    with connection.channel() as channel:
        for queue in queues():
            queue(channel).declare()
    return names()


def names() -> list[str]:
    """The name of every queue."""
    return [queue.name for queue in queues()]


def dead_queues() -> dict[str, str]:
    """Each dead-letter queue, and the queue whose letters it takes."""
    return {DEAD: COMMANDS} | {f"{name}.dead": name for name in SUBSCRIBERS}


def depth(connection: Connection, name: str) -> int | None:
    """Messages that wait in the queue; None when there is no such queue."""
    try:
        with connection.channel() as channel:
            return int(channel.queue_declare(name, passive=True).message_count)
    except connection.channel_errors:
        return None


def _dead(name: str) -> Queue:
    return Queue(name, durable=True, queue_arguments=dict(_QUORUM))
