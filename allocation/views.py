"""SQL answers to GETs: plain rows made into JSON, no objects of the domain."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, collate, func, select

from allocation.adapters.database import is_postgresql
from allocation.adapters.tables import (
    allocations,
    batches,
    commands,
    is_open,
    is_pending,
    is_unsent,
    outbox,
    products,
    waits,
)

Json = dict[str, Any]

BATCHES_SHOWN = 100
"""Open batches that a product's answer lists at most; its figures count all of them."""

DECISIONS_SHOWN = 100
"""Decisions that the explanation of a line lists at most."""

_SHOWN = ("part", "qty", "batchref", "eta", "old_eta", "new_eta", "expires_at", "reason")
_available = batches.c.purchased - batches.c.allocated


@dataclass(frozen=True, slots=True)
class Backlog:
    """What the outbox holds that was not sent: rows, and the age of the oldest in seconds."""

    unsent: int
    oldest_unsent_seconds: float


@dataclass(frozen=True, slots=True)
class Standing:
    """How a command stands: its status, and its outcome, empty while it is pending."""

    status: str
    outcome: Json


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection on which every statement sees the same moment."""
    options: Json = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect() as connection:
        if is_postgresql(connection):
            connection = connection.execution_options(**options)
        yield connection


def order(connection: Connection, orderid: str) -> Json | None:
    """Every line of the order, by sku; None when it has none."""
    # The lines of one order, each with the ETA of the batch that it is promised.
    statement = (
        select(allocations, batches.c.eta.label("batch_eta"))
        .outerjoin(batches, batches.c.batchref == allocations.c.batchref)
        .where(allocations.c.orderid == orderid)
        .order_by(allocations.c.sku, allocations.c.part)
    )
    lines = [
        {
            "sku": row.sku,
            "qty": row.qty,
            "status": _status(row),
            "batchref": row.batchref,
            "eta": _day(row.batch_eta),
            "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        }
        for row in connection.execute(statement)
    ]
    return {"orderid": orderid, "lines": lines} if lines else None


def explanation(connection: Connection, orderid: str, sku: str) -> Json | None:
    """Why an order line stands where it does: every decision about it that is kept, oldest first.

    None when the order never had such a line, or nothing of it is kept. At most the last
    DECISIONS_SHOWN decisions.
    """
    # The line itself, if it was not given up: in parts, where several batches serve it.
    parts = connection.execute(
        select(allocations).where(allocations.c.orderid == orderid, allocations.c.sku == sku)
    ).all()
    # What happened to it, with what each choice was made from.
    rows = connection.execute(
        select(outbox)
        .where(outbox.c.orderid == orderid, outbox.c.sku == sku)
        .order_by(outbox.c.sequence.desc())
        .limit(DECISIONS_SHOWN)
    ).all()
    if not parts and not rows:
        return None
    statuses = {_status(part) for part in parts}
    # The commands that began it all, as far as they came in here and are kept.
    began_with = {row.correlation_id for row in rows}
    roots = {
        row.id: row
        for row in connection.execute(
            select(commands.c.id, commands.c.name, commands.c.body).where(
                commands.c.id.in_(began_with)
            )
        )
    }
    return {
        "orderid": orderid,
        "sku": sku,
        "status": ("in parts" if len(statuses) > 1 else min(statuses, default="given up")),
        "decisions": [_decision(row, roots.get(row.correlation_id)) for row in reversed(rows)],
    }


def product(connection: Connection, sku: str) -> Json | None:
    """The product's stock and queue; None for a sku that no batch ever had.

    Lists the open batches, those with free stock, in the order in which they serve, and at most
    BATCHES_SHOWN of them: a long history of used-up batches costs nothing. `available` and
    `open_batches` count all open ones. Costs grow with open batches and waiting lines.
    """
    # The product's version, which every decision that changes it counts up, and its strategy.
    known = connection.execute(select(products).where(products.c.sku == sku)).first()
    if known is None:
        return None
    # How many batches have free stock, and how much.
    stock = connection.execute(
        select(func.count(), func.coalesce(func.sum(_available), 0)).where(
            batches.c.sku == sku, is_open
        )
    ).one()
    # How many lines wait for this sku, and for how many pieces.
    queue = connection.execute(
        select(func.count(), func.coalesce(func.sum(allocations.c.qty), 0)).where(
            allocations.c.sku == sku, waits
        )
    ).one()
    # PostgreSQL would order references by its locale; the rule orders them by their characters.
    batchref = batches.c.batchref
    tie = collate(batchref, "C") if is_postgresql(connection) else batchref
    by_arrival = (batches.c.eta.is_not(None), batches.c.eta, tie)
    # As the strategies of the domain sort them.
    order_by: dict[str, tuple[Any, ...]] = {
        "earliest_first": by_arrival,
        "first_to_expire": (
            batches.c.best_before.is_(None),
            batches.c.best_before,
            *by_arrival,
        ),
        "fewest_open": (_available, *by_arrival),
    }
    # The batches with free stock, in the order in which they serve.
    statement = (
        select(batches)
        .where(batches.c.sku == sku, is_open)
        .order_by(*order_by[known.strategy])
        .limit(BATCHES_SHOWN)
    )
    return {
        "sku": sku,
        "version": known.version,
        "strategy": known.strategy,
        "available": int(stock[1]),
        "open_batches": stock[0],
        "waiting": {"lines": queue[0], "qty": int(queue[1])},
        "batches": [_batch(row) for row in connection.execute(statement)],
    }


def batch(connection: Connection, batchref: str) -> Json | None:
    """One batch, open or used up; None for a reference that nobody has."""
    # One batch by its reference.
    row = connection.execute(select(batches).where(batches.c.batchref == batchref)).first()
    return {"sku": row.sku, **_batch(row)} if row else None


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


def _status(line: Any) -> str:
    if line.batchref is None:
        return "waiting"
    if line.dispatched:
        return "dispatched"
    return "allocated" if line.expires_at is None else "reserved"


def _decision(row: Any, root: Any) -> Json:
    data = row.body["data"]
    made: Json = {
        "event": row.name,
        "sequence": row.sequence,
        "time": row.body["time"],
        "cause": {"id": row.body["causationid"], "command": row.body["causationtype"]},
        "began_with": {
            "id": row.body["correlationid"],
            "command": root.name if root else None,
            "body": root.body if root else None,
        },
        **{name: data[name] for name in _SHOWN if name in data},
    }
    if row.choice:
        chosen = data.get("batchref")
        made["candidates"] = row.choice["candidates"]
        made["considered"] = [
            each | {"verdict": _verdict(each, data["qty"], chosen)}
            for each in row.choice["considered"]
        ]
    return made


def _verdict(candidate: Json, qty: int, chosen: str | None) -> str:
    if candidate["batchref"] == chosen:
        return "chosen: the first in the order of preference that fits"
    return f"passed over: {candidate['free']} free, {qty} wanted"


def _batch(row: Any) -> Json:
    return {
        "batchref": row.batchref,
        "qty": row.purchased,
        "allocated": row.allocated,
        "available": row.purchased - row.allocated,
        "eta": _day(row.eta),
        "best_before": _day(row.best_before),
    }


def _day(eta: date | None) -> str | None:
    return eta.isoformat() if eta else None
