"""Stock: products and their batches."""

import re
from collections.abc import Collection
from dataclasses import dataclass, fields
from datetime import date
from typing import Any

from sqlalchemy import (
    ColumnElement,
    Connection,
    and_,
    case,
    collate,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from allocation.adapters.sql.tables import allocations, batches, is_open, products, waits
from allocation.domain.books import Batch
from allocation.domain.strategies import STRATEGIES, strategy_version
from allocation.messaging.database import is_postgresql
from allocation.views import Json

LIMIT = 100
"""Batches on one page of a product's answer, unless the caller asks for fewer or more."""

MOST = 1000
"""Batches on one page at most."""

free = batches.c.purchased - batches.c.allocated
# As the rules compare dates: the shelf is before every date, stock that keeps after every date.
_arrival = func.coalesce(batches.c.eta, date.min)
_expiry = func.coalesce(batches.c.best_before, date.max)
_holds = batches.c.purchased > 0
_BATCH_FIELDS = tuple(field.name for field in fields(Batch))

_OPEN, _PROMISED, _EMPTY = range(3)
CURSOR = r"[0-2]:[0-9]{1,10}:[0-9]{0,7}:[0-9]{0,7}:[^\x00-\x1f\x7f]{1,255}"
"""What the text of a cursor looks like: group, free pieces, two days as numbers, reference."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """A place in the list of a product's batches: after the batch that had these values.

    The values, not the batch, say where the list goes on: the batch may have changed since.
    """

    group: int
    available: int
    best_before: date | None
    eta: date | None
    batchref: str


def is_good(today: date) -> ColumnElement[bool]:
    """As `Batch.is_good`."""
    eta, best_before = batches.c.eta, batches.c.best_before
    keeps = and_(best_before >= today, or_(eta.is_(None), best_before >= eta))
    return and_(batches.c.blocked.is_(None), or_(best_before.is_(None), keeps))


def is_overdue(today: date) -> ColumnElement[bool]:
    """As `Batch.is_overdue`."""
    return and_(batches.c.eta.is_not(None), batches.c.eta < today)


def product(
    connection: Connection,
    sku: str,
    today: date,
    *,
    after: Cursor | None = None,
    only_open: bool = False,
    limit: int = LIMIT,
) -> Json | None:
    """The product's stock and queue, and a page of its batches; None for an unknown sku.

    `after`, `only_open` and `limit` are those of `batches_of`. `next` is the cursor of the next
    page, or None. `available` and `open_batches` count all usable batches with free pieces.
    """
    # The product's version, which every decision that changes it counts up, and its strategy.
    known = connection.execute(select(products).where(products.c.sku == sku)).first()
    if known is None:
        return None
    late = is_overdue(today)
    stock = connection.execute(
        select(
            func.count(),
            func.coalesce(func.sum(free), 0),
            func.coalesce(func.sum(case((late, 1), else_=0)), 0),
            func.coalesce(func.sum(case((late, free), else_=0)), 0),
        ).where(batches.c.sku == sku, is_open, is_good(today))
    ).one()
    unusable = connection.execute(
        select(func.count(), func.coalesce(func.sum(batches.c.purchased), 0)).where(
            batches.c.sku == sku, _holds, ~is_good(today)
        )
    ).one()
    queue = connection.execute(
        select(func.count(), func.coalesce(func.sum(allocations.c.qty), 0)).where(
            allocations.c.sku == sku, waits
        )
    ).one()
    found = batches_of(
        connection, sku, known.strategy, today, after=after, only_open=only_open, limit=limit + 1
    )
    return {
        "sku": sku,
        "version": known.version,
        "strategy": known.strategy,
        "waiting_rule": known.waiting,
        "improve": known.improve,
        "strategy_version": strategy_version(known.strategy, known.waiting, known.improve),
        "available": int(stock[1]),
        "open_batches": stock[0],
        "overdue": {"batches": int(stock[2]), "qty": int(stock[3])},
        "unusable": {"batches": unusable[0], "qty": int(unusable[1])},
        "waiting": {"lines": queue[0], "qty": int(queue[1])},
        "batches": found[:limit],
        "next": cursor_after(found[limit - 1]) if len(found) > limit else None,
    }


def batches_of(
    connection: Connection,
    sku: str,
    strategy: str,
    today: date,
    *,
    after: Cursor | None = None,
    only_open: bool = False,
    limit: int = LIMIT,
) -> list[Json]:
    """Up to `limit` batches of the product, from the cursor `after` on.

    First usable batches with free pieces, in the order in which they serve; then fully promised and
    unusable ones, in the same order; then empty ones, by reference. Costs grow with `limit` and the
    batches that hold something, not with the empty ones, which are the history.
    """
    # PostgreSQL would order references by its locale; the rule orders them by their characters.
    batchref = batches.c.batchref
    good = is_good(today)
    columns: dict[str, ColumnElement[Any]] = {
        "overdue": case((is_overdue(today), 1), else_=0),
        "free": case((good, free), else_=0),
        "arrival": _arrival,
        "expiry": _expiry,
        "batchref": collate(batchref, "C") if is_postgresql(connection) else batchref,
    }
    conditions = {
        _OPEN: is_open & good,
        _PROMISED: _holds & ~(is_open & good),
        _EMPTY: batches.c.purchased == 0,
    }
    found: list[Json] = []
    groups = (_OPEN,) if only_open else (_OPEN, _PROMISED, _EMPTY)
    for group in groups:
        if (after is not None and group < after.group) or len(found) == limit:
            continue
        names = ("batchref",) if group == _EMPTY else ("overdue", *STRATEGIES[strategy].by)
        order = [columns[name] for name in names]
        statement = (
            select(batches)
            .where(batches.c.sku == sku, conditions[group])
            .order_by(*order)
            .limit(limit - len(found))
        )
        if after is not None and group == after.group:
            values = {
                "overdue": int(after.eta is not None and after.eta < today),
                "free": after.available,
                "arrival": after.eta or date.min,
                "expiry": after.best_before or date.max,
                "batchref": after.batchref,
            }
            statement = statement.where(
                tuple_(*order)
                > tuple_(*(literal(values[name], columns[name].type) for name in names))
            )
        found += [_batch(row, today) for row in connection.execute(statement)]
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
        _day(best_before) if best_before else None,
        _day(eta) if eta else None,
        batchref,
    )


def _day(number: str) -> date:
    return date.fromordinal(min(max(int(number), 1), date.max.toordinal()))


def batch(connection: Connection, batchref: str, today: date) -> Json | None:
    """One batch, open or used up; None for a reference that nobody has.

    `version` is the rules' own.
    """
    row = connection.execute(select(batches).where(batches.c.batchref == batchref)).first()
    if row is None:
        return None
    return {"sku": row.sku, **_batch(row, today), "version": _known(row).version}


def etas(connection: Connection, batchrefs: Collection[str]) -> dict[str, date | None]:
    """When each of these batches arrives, by reference; None: it is on the shelf."""
    asked = select(batches.c.batchref, batches.c.eta).where(batches.c.batchref.in_(batchrefs))
    return {row.batchref: row.eta for row in connection.execute(asked)}


def iso(moment: date | None) -> str | None:
    """The date, or date and time, as ISO 8601 writes it."""
    return moment.isoformat() if moment else None


def _batch(row: Any, today: date) -> Json:
    known = _known(row)
    return {
        "batchref": known.batchref,
        "qty": known.purchased,
        "allocated": known.allocated,
        "available": known.free if known.is_good(today) else 0,
        "eta": iso(known.eta),
        "best_before": iso(known.best_before),
        "blocked": known.blocked,
        "expired": known.has_expired(today),
        "overdue": known.is_overdue(today),
    }


def _known(row: Any) -> Batch:
    return Batch(**{name: getattr(row, name) for name in _BATCH_FIELDS})
