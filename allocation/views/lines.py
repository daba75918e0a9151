"""Order lines: how those of an order stand, and why."""

from collections.abc import Sequence
from itertools import groupby
from operator import itemgetter
from typing import Any

from sqlalchemy import Connection, and_, or_, select, tuple_

from allocation.adapters.sql.tables import (
    allocations,
    batches,
    in_service_order,
    outbox,
    waits,
)
from allocation.domain.books import Line, line_version, status_of, status_of_parts
from allocation.views import Json, moves
from allocation.views.stock import iso

Place = tuple[int, int, str, int]
"""Of a waiting line: its priority, age, order and part."""

DECISIONS_SHOWN = 100
"""Decisions that the explanation of a line lists at most."""


def order(connection: Connection, orderid: str) -> Json | None:
    """Every line of the order, by sku; None when it has none."""
    statement = _PARTS.where(allocations.c.orderid == orderid)
    lines = [
        {
            "sku": row.sku,
            **_part(row),
            "priority": row.priority,
            "not_before": iso(row.not_before),
            "fresh_days": row.fresh_days,
        }
        for row in connection.execute(statement)
    ]
    return {"orderid": orderid, "lines": lines} if lines else None


def line(connection: Connection, orderid: str, sku: str) -> Json | None:
    """The order's line with its parts; None when it has none. `version` is the rules' own."""
    rows = connection.execute(
        _PARTS.where(allocations.c.orderid == orderid, allocations.c.sku == sku)
    ).all()
    if not rows:
        return None
    names = allocations.c.keys()
    known = [Line(**{name: getattr(row, name) for name in names}) for row in rows]
    first = known[0]
    return {
        "orderid": orderid,
        "sku": sku,
        "qty": sum(part.qty for part in known),
        "status": status_of_parts(part.status for part in known),
        "customer": first.customer,
        "split": first.split,
        "priority": first.priority,
        "not_before": iso(first.not_before),
        "fresh_days": first.fresh_days,
        "dispatched_qty": sum(part.gone for part in known),
        "returned": sum(part.returned for part in known),
        "parts": [_part(row) for row in rows],
        "version": line_version(known),
    }


_PARTS = (
    select(allocations, batches.c.eta.label("batch_eta"))
    .outerjoin(batches, batches.c.batchref == allocations.c.batchref)
    .order_by(allocations.c.sku, allocations.c.part)
)


def _part(row: Any) -> Json:
    return {
        "part": row.part,
        "qty": row.qty,
        "status": status_of(row.batchref, row.expires_at, dispatched=row.dispatched),
        "batchref": row.batchref,
        "eta": iso(row.batch_eta),
        "expires_at": iso(row.expires_at),
        "dispatched_qty": row.qty if row.dispatched else row.dispatched_qty,
        "returned": row.returned,
    }


def whole(rows: Sequence[Json]) -> list[Json]:
    """One row for each line, with its `parts`; these are empty if there is only one.

    `rows` are sorted by sku and part.
    """
    found = []
    for _, group in groupby(rows, key=itemgetter("sku")):
        parts = list(group)
        if len(parts) == 1:
            found.append({**parts[0], "parts": []})
            continue
        statuses = {part["status"] for part in parts}
        status = statuses.pop() if len(statuses) == 1 else "in parts"
        sums = {name: sum(part[name] for part in parts) for name in ("qty", "dispatched_qty")}
        found.append({**parts[0], **sums, "status": status, "parts": parts})
    return found


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
    connection: Connection, sku: str, *, after: Place | None = None, limit: int = 50
) -> list[Json]:
    """The lines that wait for the product, in the order in which they are served, after `place`.

    Costs grow with all that wait for it.
    """
    one = allocations.c
    statement = (
        select(one.priority, one.age, one.orderid, one.part, one.qty, one.customer)
        .where(one.sku == sku, waits)
        .order_by(*in_service_order, one.orderid, one.part)
        .limit(limit)
    )
    if after is not None:
        priority, *rest = after
        is_behind = tuple_(one.age, one.orderid, one.part) > tuple(rest)
        statement = statement.where(
            or_(one.priority < priority, and_(one.priority == priority, is_behind))
        )
    return [
        {
            "orderid": row.orderid,
            "part": row.part,
            "qty": row.qty,
            "customer": row.customer,
            "priority": row.priority,
            "place": (row.priority, row.age, row.orderid, row.part),
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
