"""All dead-letter queues together: select, count by cause, and deliver again."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields
from typing import Any

from kombu import Connection

from allocation.adapters.rabbitmq import partitioning, topology
from allocation.messaging import dead_letters
from allocation.messaging.dead_letters import DeadLetter

REASONS = {
    topology.DEAD: (
        *("unreadable", "unknown task", "unknown field", "failed"),
        *("revoked", "expired", "terminated"),
    ),
    topology.INBOUND_DEAD: ("unreadable", "unknown type", "malformed", "conflict", "failed"),
}
"""By queue: the reasons for which the service itself dead-letters a message."""

Row = dict[str, Any]

Watch = Callable[[Iterator[DeadLetter], str, int], Iterable[DeadLetter]]
"""Gets the dead letters of a queue, its name and their number, and yields them."""


class NoSuchQueue(Exception):
    """The text names the queue and says what to do."""


@dataclass(frozen=True, slots=True)
class Selection:
    """The dead letters that match everything that is given. Raises NoSuchQueue."""

    ids: tuple[str, ...] = ()
    queue: str | None = None
    reason: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.queue is not None and self.queue not in topology.dead_queues():
            known = ", ".join(topology.dead_queues())
            raise NoSuchQueue(f"{self.queue} is not a dead-letter queue; there are {known}")

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    def meets(self, letter: DeadLetter) -> bool:
        return (
            (not self.ids or letter.id in self.ids)
            and self.reason in (None, letter.reason)
            and self.name in (None, letter.name)
        )


def selected(connection: Connection, selection: Selection, watch: Watch) -> Iterator[DeadLetter]:
    """The selected dead letters, each queue's oldest first; those not acknowledged go back.

    Raises NoSuchQueue if the broker lacks a queue.
    """
    for queue in [selection.queue] if selection.queue else topology.dead_queues():
        waiting = topology.depth(connection, queue)
        if waiting is None:
            raise NoSuchQueue(f"the queue {queue} is missing: run `allocation topology`")
        letters = dead_letters.fetch(connection, queue, waiting)
        yield from (letter for letter in watch(letters, queue, waiting) if selection.meets(letter))


def deliver_again(connection: Connection, letter: DeadLetter) -> None:
    """Put the message back into the queue that it came from; see `dead_letters.send_again`.

    A command goes to the exchange of commands, which finds its partition by the header.
    """
    if letter.queue == topology.DEAD:
        to = (topology.COMMANDS, topology.COMMANDS)
        letter.message.headers = partitioning.as_before_death(letter.message.headers or {})
    else:
        to = ("", topology.dead_queues()[letter.queue])
    dead_letters.send_again(connection, *to, letter)


def summary(letter: DeadLetter) -> Row:
    """All that is known of a dead letter, but its message."""
    known = {
        field.name: getattr(letter, field.name)
        for field in fields(letter)
        if field.name != "message"
    }
    return known | ({"cut_bytes": letter.cut} if letter.cut else {})


def by_cause(letters: Iterable[DeadLetter]) -> list[Row]:
    """How many there are of each queue, reason, name and kind, since when; the most first."""
    groups: dict[tuple[str, ...], Row] = {}
    for letter in letters:
        key = (letter.queue, letter.reason, letter.name, letter.kind)
        group = groups.setdefault(
            key,
            dict(zip(("queue", "reason", "name", "kind"), key, strict=True))
            | {"letters": 0, "first": letter.first, "last": letter.last},
        )
        group["letters"] += 1
        group["first"] = min(filter(None, (group["first"], letter.first)), default=None)
        group["last"] = max(filter(None, (group["last"], letter.last)), default=None)
    return sorted(groups.values(), key=lambda row: row["letters"], reverse=True)
