"""Order lines: how those of an order stand, and why."""

from sqlalchemy import Connection, select, tuple_

from allocation.adapters.sql.tables import allocations, batches, outbox, waits
from allocation.domain.books import status_of, status_of_parts
from allocation.views import Json, moves
from allocation.views.stock import iso

DECISIONS_SHOWN = 100
"""Decisions that the explanation of a line lists at most."""


def order(connection: Connection, orderid: str) -> Json | None:
    """Every line of the order, by sku; None when it has none."""
    statement = (
        select(allocations, batches.c.eta.label("batch_eta"))
        .outerjoin(batches, batches.c.batchref == allocations.c.batchref)
        .where(allocations.c.orderid == orderid)
        .order_by(allocations.c.sku, allocations.c.part)
    )
    lines = [
        {
            "sku": row.sku,
            "part": row.part,
            "qty": row.qty,
            "status": status_of(row.batchref, row.expires_at, dispatched=row.dispatched),
            "batchref": row.batchref,
            "eta": iso(row.batch_eta),
            "expires_at": iso(row.expires_at),
        }
        for row in connection.execute(statement)
    ]
    return {"orderid": orderid, "lines": lines} if lines else None


def customers(connection: Connection, orderid: str) -> list[str]:
    """The customers that the order's lines name."""
    customer = allocations.c.customer
    statement = (
        select(customer)
        .where(allocations.c.orderid == orderid, customer.is_not(None))
        .group_by(customer)
        .order_by(customer)
    )
    return list(connection.scalars(statement))


def waiting(
    connection: Connection, sku: str, *, after: tuple[int, str, int] | None = None, limit: int = 50
) -> list[Json]:
    """The lines that wait for the product, the oldest first, after that `place`.

    Costs grow with all that wait for it.
    """
    place = (allocations.c.age, allocations.c.orderid, allocations.c.part)
    statement = (
        select(*place, allocations.c.qty, allocations.c.customer)
        .where(allocations.c.sku == sku, waits)
        .order_by(*place)
        .limit(limit)
    )
    if after is not None:
        statement = statement.where(tuple_(*place) > after)
    return [
        {
            "orderid": row.orderid,
            "part": row.part,
            "qty": row.qty,
            "customer": row.customer,
            "place": (row.age, row.orderid, row.part),
        }
        for row in connection.execute(statement)
    ]


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
    statuses = [
        status_of(part.batchref, part.expires_at, dispatched=part.dispatched) for part in parts
    ]
    return {
        "orderid": orderid,
        "sku": sku,
        "status": status_of_parts(statuses) if statuses else "given up",
        "decisions": moves.decisions(connection, rows[::-1]),
    }
