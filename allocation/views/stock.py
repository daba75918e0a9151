"""Stock: products and their batches."""

import re
from dataclasses import dataclass
from datetime import date
from typing import Any

from sqlalchemy import ColumnElement, Connection, collate, func, literal, select, tuple_

from allocation.adapters.sql.tables import allocations, batches, is_open, products, waits
from allocation.domain.strategies import STRATEGIES
from allocation.messaging.database import is_postgresql
from allocation.views import Json

LIMIT = 100
"""Batches on one page of a product's answer, unless the caller asks for fewer or more."""

MOST = 1000
"""Batches on one page at most."""

_available = batches.c.purchased - batches.c.allocated
# As the rules compare dates: the shelf is before every date, stock that keeps after every date.
_arrival = func.coalesce(batches.c.eta, date.min)
_expiry = func.coalesce(batches.c.best_before, date.max)
_COLUMNS = {"free": _available, "arrival": _arrival, "expiry": _expiry}
_holds = batches.c.purchased > 0

_OPEN, _PROMISED, _EMPTY = range(3)
_GROUPS = {_OPEN: is_open, _PROMISED: _holds & ~is_open, _EMPTY: batches.c.purchased == 0}
CURSOR = r"[0-2]:[0-9]{1,10}:[0-9]{0,7}:[0-9]{0,7}:[^\x00-\x1f\x7f]{1,255}"
"""What the text of a cursor looks like: group, free pieces, two days as numbers, reference."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the list of a product's batches: after the batch that had these values.

    The values, not the batch, say where the list goes on: the batch may have changed since.
    """

    group: int
    available: int
    best_before: date
    eta: date
    batchref: str


def product(
    connection: Connection,
    sku: str,
    *,
    after: Cursor | None = None,
    only_open: bool = False,
    limit: int = LIMIT,
) -> Json | None:
    """The product's stock and queue, and a page of its batches; None for an unknown sku.

    `after`, `only_open` and `limit` are those of `batches_of`. `next` is the cursor of the next
    page, or None. `available` and `open_batches` count all batches with free pieces.
    """
    # The product's version, which every decision that changes it counts up, and its strategy.
    known = connection.execute(select(products).where(products.c.sku == sku)).first()
    if known is None:
        return None
    stock = connection.execute(
        select(func.count(), func.coalesce(func.sum(_available), 0)).where(
            batches.c.sku == sku, is_open
        )
    ).one()
    queue = connection.execute(
        select(func.count(), func.coalesce(func.sum(allocations.c.qty), 0)).where(
            allocations.c.sku == sku, waits
        )
    ).one()
    found = batches_of(
        connection, sku, known.strategy, after=after, only_open=only_open, limit=limit + 1
    )
    return {
        "sku": sku,
        "version": known.version,
        "strategy": known.strategy,
        "available": int(stock[1]),
        "open_batches": stock[0],
        "waiting": {"lines": queue[0], "qty": int(queue[1])},
        "batches": found[:limit],
        "next": cursor_after(found[limit - 1]) if len(found) > limit else None,
    }


def batches_of(
    connection: Connection,
    sku: str,
    strategy: str,
    *,
    after: Cursor | None = None,
    only_open: bool = False,
    limit: int = LIMIT,
) -> list[Json]:
    """Up to `limit` batches of the product, from the cursor `after` on.

    First batches with free pieces, in the order in which they serve; then fully promised ones, in
    the same order; then empty ones, by reference. Costs grow with `limit` and the batches that hold
    something, not with the empty ones, which are the history.
    """
    # PostgreSQL would order references by its locale; the rule orders them by their characters.
    batchref = batches.c.batchref
    tie = collate(batchref, "C") if is_postgresql(connection) else batchref
    found: list[Json] = []
    groups = (_OPEN,) if only_open else (_OPEN, _PROMISED, _EMPTY)
    for group in groups:
        if (after is not None and group < after.group) or len(found) == limit:
            continue
        order = _order(group, strategy, tie)
        statement = (
            select(batches)
            .where(batches.c.sku == sku, _GROUPS[group])
            .order_by(*order)
            .limit(limit - len(found))
        )
        if after is not None and group == after.group:
            values = {
                _available: after.available,
                _expiry: after.best_before,
                _arrival: after.eta,
                tie: after.batchref,
            }
            statement = statement.where(
                tuple_(*order) > tuple_(*(literal(values[each], each.type) for each in order))
            )
        found += [_batch(row) for row in connection.execute(statement)]
    return found


def cursor_after(batch: Json) -> str:
    """The text of the cursor after this batch."""
    group = _OPEN if batch["available"] else _PROMISED if batch["qty"] else _EMPTY
    days = [
        str(date.fromisoformat(batch[name]).toordinal()) if batch[name] else ""
        for name in ("best_before", "eta")
    ]
    return ":".join([str(group), str(batch["available"]), *days, batch["batchref"]])


def cursor(text: str) -> Cursor | None:
    """The cursor that `cursor_after` wrote; None for another text."""
    if re.fullmatch(CURSOR, text) is None:
        return None
    group, available, best_before, eta, batchref = text.split(":", 4)
    return Cursor(
        int(group),
        int(available),
        _day(best_before) if best_before else date.max,
        _day(eta) if eta else date.min,
        batchref,
    )


def _day(number: str) -> date:
    return date.fromordinal(min(max(int(number), 1), date.max.toordinal()))


def _order(group: int, strategy: str, tie: ColumnElement[str]) -> tuple[ColumnElement[Any], ...]:
    """The columns by which a group of batches is sorted: those of the product's strategy."""
    by = ("batchref",) if group == _EMPTY else STRATEGIES[strategy].by
    return tuple(tie if name == "batchref" else _COLUMNS[name] for name in by)


def batch(connection: Connection, batchref: str) -> Json | None:
    """One batch, open or used up; None for a reference that nobody has."""
    row = connection.execute(select(batches).where(batches.c.batchref == batchref)).first()
    return {"sku": row.sku, **_batch(row)} if row else None


def iso(moment: date | None) -> str | None:
    """The date, or date and time, as ISO 8601 writes it."""
    return moment.isoformat() if moment else None


def _batch(row: Any) -> Json:
    return {
        "batchref": row.batchref,
        "qty": row.purchased,
        "allocated": row.allocated,
        "available": row.purchased - row.allocated,
        "eta": iso(row.eta),
        "best_before": iso(row.best_before),
    }
