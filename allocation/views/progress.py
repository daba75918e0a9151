"""Commands: how they stand, and how far relay and workers are behind."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, func, select

from allocation.adapters.tables import allocations, commands, is_pending, is_unsent, outbox, waits
from allocation.views import Json


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the outbox holds that was not sent: rows, and the age of the oldest in seconds."""

    unsent: int
    oldest_unsent_seconds: float


@dataclass(frozen=True, slots=True)
class Figures:
    """What people on call look at first.

    `decided` counts the commands that came in during the last minute by how they ended;
    `waiting_skus` are those of which lines wait.
    """

    pending: int
    decided: dict[str, int]
    unsent: int
    oldest_unsent_seconds: float
    waiting_lines: int
    waiting_qty: int
    waiting_skus: int


@dataclass(frozen=True, slots=True)
class Standing:
    """How a command stands: its status, and its outcome, empty while it is pending."""

    status: str
    outcome: Json


def command(connection: Connection, command_id: UUID) -> Json | None:
    """How a command stands; None for an id that was never accepted."""
    # One command by its id.
    row = connection.execute(select(commands).where(commands.c.id == command_id)).first()
    return _command(row) if row else None


def decided(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Json]:
    """How those of the commands stand that are no longer pending."""
    # Many commands by their ids, less what is pending.
    statement = select(commands).where(commands.c.id.in_(ids), commands.c.status != "pending")
    return {row.id: _command(row) for row in connection.execute(statement)}


def standings(connection: Connection, ids: Collection[UUID]) -> dict[UUID, Standing]:
    """How commands stand, by id; those that were never accepted are left out."""
    columns = commands.c
    # Commands by their ids.
    rows = connection.execute(
        select(columns.id, columns.status, columns.outcome).where(columns.id.in_(ids))
    )
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
    # How many commands have no outcome.
    pending = select(func.count()).select_from(commands).where(is_pending)
    return (connection.scalar(pending) or 0) + backlog(connection).unsent


def backlog(connection: Connection) -> Backlog:
    """How far the relay is behind; the oldest row is the one that it will send next."""
    # How many rows of the outbox were not sent.
    unsent = connection.scalar(select(func.count()).select_from(outbox).where(is_unsent)) or 0
    return Backlog(unsent, round(oldest_unsent(connection), 3))


def figures(connection: Connection) -> Figures:
    """How much there is to do, what was done, and what nothing can serve.

    The cost grows with what is pending, unsent and waiting and with the last minute's commands,
    never with what is over.
    """
    recently = datetime.now(UTC) - timedelta(minutes=1)
    # How the commands of the last minute ended.
    ended = dict.fromkeys(("succeeded", "rejected", "failed"), 0)
    ended |= dict(
        connection.execute(
            select(commands.c.status, func.count())
            .where(commands.c.accepted_at >= recently, ~is_pending)
            .group_by(commands.c.status)
        ).all()
    )
    # How many commands have no outcome.
    pending = connection.scalar(select(func.count()).select_from(commands).where(is_pending))
    # How many lines wait, for how many pieces of how many products.
    lines = connection.execute(
        select(
            func.count(),
            func.coalesce(func.sum(allocations.c.qty), 0),
            func.count(allocations.c.sku.distinct()),
        ).where(waits)
    ).one()
    unsent = backlog(connection)
    return Figures(
        pending=pending or 0,
        decided=ended,
        unsent=unsent.unsent,
        oldest_unsent_seconds=unsent.oldest_unsent_seconds,
        waiting_lines=lines[0],
        waiting_qty=int(lines[1]),
        waiting_skus=lines[2],
    )


def oldest_unsent(connection: Connection) -> float:
    """How many seconds ago the row was written that the relay will send next; 0 without any."""
    oldest = connection.scalar(
        select(outbox.c.created_at).where(is_unsent).order_by(outbox.c.position).limit(1)
    )
    # Another machine's clock may be ahead of this one's.
    return max(0.0, (datetime.now(UTC) - oldest).total_seconds()) if oldest else 0.0


def _command(row: Any) -> Json:
    return {
        "id": str(row.id),
        "command": row.name,
        "status": row.status,
        "outcome": row.outcome,
        "accepted_at": row.accepted_at.isoformat(),
        "decided_at": row.decided_at.isoformat() if row.decided_at else None,
    }
