"""The ports: what a handler needs from storage, in the domain's words."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, tzinfo
from types import TracebackType
from typing import Protocol, Self
from uuid import UUID

from allocation.domain.commands import Command
from allocation.domain.events import Event
from allocation.domain.outcomes import Outcome, Refused
from allocation.domain.product import Product


@dataclass(frozen=True, slots=True)
class Message:
    """A command with its ids: `correlation_id` is that of the request that started it all.

    `traceparent` is the span that sent it, in W3C's format; it does not count in comparisons.
    """

    id: UUID
    command: Command
    correlation_id: UUID
    causation_id: UUID | None = None
    traceparent: str | None = field(default=None, compare=False)


class CommandConflict(Exception):
    """The command id is known with another body or another correlation id."""


class ConcurrentUpdate(Exception):
    """Another transaction changed the same rows meanwhile; nothing was saved, try again."""


class StorageUnavailable(Exception):
    """The database can't be reached or the connection broke; the commit may be lost, try again."""


class StorageUnusable(StorageUnavailable):
    """The database answers, but needs an operator, such as for a full disk.

    The text says what is wrong and what to do. Callers retry without end.
    """


class SchemaMissing(StorageUnusable):
    """The database has no schema, or that of an earlier version."""


class Products(Protocol):
    """The products, each locked against other writers from the moment it is loaded."""

    def load(self, commands: Sequence[Command]) -> None:
        """Lock the products that the commands name, in the order of their skus, and load them.

        This loads also the batches and lines that the commands need, all at once.
        """
        ...

    def pull_seen(self) -> list[Product]:
        """Every product that was given out or added since the last call, in that order."""
        ...

    def get(self, sku: str) -> Product | None: ...

    def get_by_batchref(self, batchref: str) -> Product | None: ...

    def of_order(self, orderid: str) -> list[Product]:
        """The products of which the order has lines, by sku.

        A product may be missing if the order got its line while this waited for locks.
        """
        ...

    def add(self, sku: str) -> Product:
        """Begin the books of a sku that is not known yet."""
        ...


class Inbox(Protocol):
    """Every command by its id: accepted once, decided once."""

    def accept(self, messages: Sequence[Message]) -> set[UUID]:
        """Record commands as pending and add them to the outbox; returns the ids that are new.

        A repeat changes nothing. Raises CommandConflict when an id is known with another command or
        correlation id.
        """
        ...

    def record(self, message: Message, outcome: Outcome) -> None:
        """Save the outcome of a claimed command."""
        ...

    def record_failure(self, message: Message, error: str) -> None:
        """Mark the command as failed, unless it has an outcome.

        A malformed command is marked only if it is known already.
        """
        ...

    def give_up(self, command_id: UUID, refusal: Refused) -> bool:
        """Refuse a command that has no outcome; False when it has one, or is not known."""
        ...


class Outbox(Protocol):
    """Messages to publish once this unit of work is committed."""

    def add(self, event: Event, cause: Message) -> None: ...

    def schedule(self, message: Message, due_at: datetime) -> None:
        """Have a command accepted once the storage's clock says so; a repeat changes nothing."""
        ...


class UnitOfWork(Protocol):
    """State, outcome and events, saved together by `commit`; leaving without it rolls back.

    Any call may raise ConcurrentUpdate or StorageUnavailable.
    """

    @property
    def products(self) -> Products: ...

    @property
    def inbox(self) -> Inbox: ...

    @property
    def outbox(self) -> Outbox: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

    def claim(self, messages: Sequence[Message]) -> dict[UUID, Outcome | None]:
        """Load the products of the commands, then take the commands for this unit of work.

        Returns the outcomes of those known before; None for one that was accepted and not decided.
        A repeat waits for the first, whose products are locked. Raises CommandConflict.
        """
        ...

    def now(self) -> datetime:
        """The storage's own clock, which all processes share: one time in each unit of work."""
        ...

    def today(self) -> date:
        """The day that it is now in `calendar`."""
        ...

    @property
    def calendar(self) -> tzinfo:
        """The time zone in which the shop's days begin."""
        ...

    def commit(self) -> None: ...
