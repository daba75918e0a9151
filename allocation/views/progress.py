"""Commands: how they stand, and how far relay and workers are behind."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Select, Table, func, select

from allocation.adapters.sql.database import ago, clock
from allocation.adapters.sql.tables import (
    allocations,
    commands,
    is_pending,
    is_unsent,
    outbox,
    waits,
)
from allocation.contract import registry
from allocation.messaging.database import among
from allocation.views import Json


@dataclass(frozen=True, slots=True)
class Backlog:
    """What is to be done: outbox rows that were not sent, commands that have no outcome, lines.

    `pending` are the commands that clients sent, `follow_ups` those that decisions created;
    `overdue` counts both kinds. The ages, in seconds, are of the oldest row and the oldest client's
    command.
    """

    unsent: int
    oldest_unsent_seconds: float
    pending: int
    oldest_pending_seconds: float
    follow_ups: int
    overdue: int
    waiting_lines: int


@dataclass(frozen=True, slots=True)
class Decided:
    """How many commands were decided, by outcome."""

    succeeded: int = 0
    rejected: int = 0
    failed: int = 0

    @property
    def all(self) -> int:
        return self.succeeded + self.rejected + self.failed


@dataclass(frozen=True, slots=True)
class Progress:
    """How the work goes: the backlog, and what was decided in the last minute."""

    backlog: Backlog
    last_minute: Decided


@dataclass(frozen=True, slots=True)
class Standing:
    """How a command stands: its status, and its outcome, empty while it is pending."""

    status: str
    outcome: Json


def command(connection: Connection, command_id: UUID) -> Json | None:
    """How a command stands; None for an id that was never accepted."""
    row = connection.execute(select(commands).where(commands.c.id == command_id)).first()
    return _command(row) if row else None


def body(connection: Connection, command_id: UUID) -> Json:
    """The body of a command; empty for an id that was never accepted."""
    found: Json | None = connection.scalar(
        select(commands.c.body).where(commands.c.id == command_id)
    )
    return found or {}


def decided(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Json]:
    """How those of the commands stand that are no longer pending."""
    rows = connection.execute(_decided(connection.dialect.name), {"ids": list(ids)})
    return {row.id: _command(row) for row in rows}


@cache
def _decided(dialect: str) -> Select[Any]:
    is_asked = among(commands.c.id, "ids", dialect)
    return select(commands).where(is_asked, commands.c.status != "pending")


def standings(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Standing]:
    """How commands stand, by id; those that were never accepted are left out."""
    asked = select(commands.c.id, commands.c.status, commands.c.outcome)
    rows = connection.execute(asked.where(commands.c.id.in_(ids)))
    return {row.id: Standing(row.status, row.outcome or {}) for row in rows}


def overload(connection: Connection, most_pending: int, oldest_unsent_age: float) -> str | None:
    """Why no further command should be accepted; None while relay and workers keep up."""
    age = oldest_unsent(connection)
    if age > oldest_unsent_age:
        return f"The relay is {age:.0f} seconds behind, more than {oldest_unsent_age:g}."
    # The one that is too many, if there is one: no count of all of them.
    one_too_many = select(commands.c.id).where(is_pending).offset(most_pending).limit(1)
    if connection.scalar(one_too_many) is not None:
        return f"More than {most_pending} commands are pending."
    return None


def waiting(connection: Connection) -> int:
    """How many commands are pending and rows unsent; it falls while relay and workers work."""
    both = (_count(commands, is_pending), _count(outbox, is_unsent))
    pending, unsent = (each.scalar_subquery() for each in both)
    return connection.scalar(select(pending + unsent)) or 0


def _count(table: Table, *which: ColumnElement[bool]) -> Select[int]:
    return select(func.count()).select_from(table).where(*which)


MINUTE = timedelta(minutes=1)
LONGEST_LOOK_BACK = timedelta(minutes=10)
"""Nothing that was accepted longer before the last minute counts as decided in it."""


def current(connection: Connection, overdue_after: float) -> Progress:
    """How the work goes now. Costs grow with the backlog and recent commands only."""
    found = backlog(connection, overdue_after)
    minute_ago = clock(connection) - MINUTE
    # The time of a decision has no index, that of the acceptance has: what was decided by now was
    # accepted before what is pending, but for what is tried again.
    look_back = min(timedelta(seconds=found.oldest_pending_seconds), LONGEST_LOOK_BACK)
    last_minute = _by_outcome(
        connection,
        commands.c.accepted_at > minute_ago - look_back,
        commands.c.decided_at > minute_ago,
    )
    return Progress(found, last_minute)


def kept(connection: Connection) -> Decided:
    """The outcomes of all commands that are kept; reads all of them."""
    return _by_outcome(connection, commands.c.status != "pending")


def _by_outcome(connection: Connection, *which: ColumnElement[bool]) -> Decided:
    statement = select(commands.c.status, func.count()).where(*which).group_by(commands.c.status)
    return Decided(**{row[0]: row[1] for row in connection.execute(statement)})


def backlog(connection: Connection, overdue_after: float) -> Backlog:
    """How far relay and workers are behind, and what waits for stock: each by a partial index.

    The oldest row is the one that the relay will send next. A command is overdue when it has been
    pending for more than `overdue_after` seconds.
    """
    # How many rows of the outbox were not sent, how many commands are pending and since when, and
    # how many lines wait: by one statement, so as of one moment.
    is_follow_up = commands.c.name.in_(registry.FOLLOW_UPS)
    is_late = commands.c.accepted_at < ago(connection, overdue_after)
    asked = (
        _count(outbox, is_unsent),
        _count(commands, is_pending, ~is_follow_up),
        select(func.min(commands.c.accepted_at)).where(is_pending, ~is_follow_up),
        _count(commands, is_pending, is_follow_up),
        _count(commands, is_pending, is_late),
        _count(allocations, waits),
    )
    found = connection.execute(select(*(each.scalar_subquery() for each in asked))).one()
    return Backlog(
        unsent=found[0],
        oldest_unsent_seconds=round(oldest_unsent(connection), 3),
        pending=found[1],
        oldest_pending_seconds=round(_seconds_since(connection, found[2]), 3),
        follow_ups=found[3],
        overdue=found[4],
        waiting_lines=found[5],
    )


def oldest_unsent(connection: Connection) -> float:
    """How many seconds ago the row was written that the relay will send next; 0 without any."""
    oldest = connection.scalar(
        select(outbox.c.created_at).where(is_unsent).order_by(outbox.c.position).limit(1)
    )
    return _seconds_since(connection, oldest)


def _seconds_since(connection: Connection, moment: datetime | None) -> float:
    return max(0.0, (clock(connection) - moment).total_seconds()) if moment else 0.0


def _command(row: Any) -> Json:
    return {
        "id": str(row.id),
        "command": row.name,
        "status": row.status,
        "outcome": row.outcome,
        "accepted_at": row.accepted_at.isoformat(),
        "decided_at": row.decided_at.isoformat() if row.decided_at else None,
    }
