"""What databases, broker and processes hold at one moment, and the moment at which stories begin.

A sku is the first letter of a command's name: A1 and A2 are commands of one product.
"""

from dataclasses import dataclass
from typing import NamedTuple


class Command(NamedTuple):
    name: str
    over_http: bool = False
    """Whether the API accepts it; else its client sends it to the broker, as a Celery task."""
    fails: bool = False
    """Whether no worker can decide it."""

    @property
    def sku(self) -> str:
        return self.name[0]

    def __str__(self) -> str:
        return self.name


class Event(NamedTuple):
    sku: str
    sequence: int
    cause: Command

    @property
    def id(self) -> tuple[str, int]:
        """It follows from sku and sequence, as in `allocation.contract.codec.cloud_event`."""
        return self.sku, self.sequence

    def __str__(self) -> str:
        return f"event {self.sku}/{self.sequence}"


Message = Command | Event


class Row(NamedTuple):
    """A row of the outbox."""

    position: int
    message: Message

    def __str__(self) -> str:
        return str(self.message)


class Worker(NamedTuple):
    """A worker with its transaction and its connection."""

    batch: tuple[Command, ...] = ()
    """The commands that it decides; once it has committed, those that it has to acknowledge."""
    is_connected: bool = True
    """Whether the broker waits for it to acknowledge the batch."""
    decided: tuple[Event, ...] | None = None
    """The events of its open transaction."""
    position: int = 0
    """The first position in the outbox that its open transaction has reserved."""
    has_committed: bool = False
    to_publish: tuple[Event, ...] = ()
    line: tuple[Event, ...] = ()
    """Events on the way to the broker, which it has neither kept nor refused yet."""
    unmarked: tuple[Event, ...] = ()
    """Events that it published, and whose rows it has not marked."""
    refused: frozenset[Event] = frozenset()


FREE = Worker()


class Relay(NamedTuple):
    """A relay with its connection."""

    selected: tuple[Row, ...] = ()
    line: tuple[Row, ...] = ()
    """Rows on the way to the broker, which it has neither kept nor refused yet."""
    unmarked: tuple[Row, ...] = ()
    """Rows that it published and has not marked."""
    refused: frozenset[Row] = frozenset()
    cursor: int = 0
    """The last position that it has selected, if it selects by that."""


class Subscriber(NamedTuple):
    """A subscriber with its queue and its database."""

    queue: tuple[Event, ...] = ()
    batch: tuple[Event, ...] = ()
    has_committed: bool = False
    received: frozenset[tuple[str, int]] = frozenset()
    """Its inbox: the ids of events."""
    held: frozenset[Event] = frozenset()
    """Events that came early."""
    effects: tuple[Event, ...] = ()


class State(NamedTuple):
    # What may still happen.
    to_send: tuple[Command, ...]
    faults: int
    repeats: int
    purges: int
    batch: int
    # The service's database.
    accepted: frozenset[Command]
    """What clients were told is accepted: by the API's 202, or by the broker's confirm."""
    decided: frozenset[Command]
    """The inbox."""
    log: tuple[Event, ...]
    """All committed events."""
    outbox: tuple[Row, ...]
    # The broker.
    commands: tuple[Command, ...]
    """The queue of commands; any of them may be delivered next."""
    dead: frozenset[Command]
    """The dead-letter queue of commands."""
    adrift: tuple[tuple[Message, ...], ...]
    """What each lost connection may still bring to the broker, in its order."""
    shown: tuple[Event, ...] | None
    """The events that came to a queue, in their order; None: this is not recorded."""
    # The processes.
    workers: tuple[Worker, ...]
    relay: Relay
    subscribers: tuple[Subscriber, ...]


@dataclass(frozen=True)
class Bounds:
    """How much happens in one story at most."""

    commands: tuple[Command, ...]
    faults: int = 0
    """Crashes, lost connections, refusals and timeouts."""
    repeats: int = 0
    """Commands that are sent again, and events that are replayed."""
    purges: int = 0
    """Times that the queue of commands loses all that it holds."""
    batch: int = 1
    """Commands, or events, of one transaction at most."""
    workers: int = 1
    subscribers: int = 1
    """With none, the order in which events come to a queue is recorded instead."""

    def __str__(self) -> str:
        counts = {
            "fault": self.faults,
            "repeat": self.repeats,
            "purge": self.purges,
            "worker": self.workers,
            "subscriber": self.subscribers,
        }
        named = [f"{count} {name}{'s' * (count > 1)}" for name, count in counts.items() if count]
        named += [f"batches of {self.batch}"] if self.batch > 1 else []
        return ", ".join([" ".join(map(str, self.commands)), *named])

    def beginning(self) -> State:
        return State(
            to_send=self.commands,
            faults=self.faults,
            repeats=self.repeats,
            purges=self.purges,
            batch=self.batch,
            accepted=frozenset(),
            decided=frozenset(),
            log=(),
            outbox=(),
            commands=(),
            dead=frozenset(),
            adrift=(),
            shown=None if self.subscribers else (),
            workers=(FREE,) * self.workers,
            relay=Relay(),
            subscribers=(Subscriber(),) * self.subscribers,
        )
