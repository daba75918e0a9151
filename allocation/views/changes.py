"""What a form needs to know of batches and lines before it changes them."""

from collections.abc import Collection
from dataclasses import fields
from datetime import date
from typing import Any

from sqlalchemy import Connection, select

from allocation.adapters.sql.tables import allocations, batches
from allocation.domain.books import Batch, Line, line_version
from allocation.views import Json
from allocation.views.stock import iso


def batches_by_ref(
    connection: Connection, batchrefs: Collection[str], today: date
) -> dict[str, Json]:
    """Each batch by its reference: its sku, quantities, days, block, `version`, and its condition.

    `free` counts pieces that may serve a line; `unusable` ones are blocked or expired.
    """
    if not batchrefs:
        return {}
    statement = select(batches).where(batches.c.batchref.in_(batchrefs))
    return {row.batchref: _batch(row, today) for row in connection.execute(statement)}


def line(connection: Connection, orderid: str, sku: str) -> Json | None:
    """The order's line of this sku as a whole, with its `version`; None if there is none."""
    return lines(connection, orderid, sku).get(sku)


def lines(connection: Connection, orderid: str, sku: str | None = None) -> dict[str, Json]:
    """The order's lines by sku: what is wanted, what has left, and the `version` of each."""
    statement = select(allocations).where(allocations.c.orderid == orderid)
    if sku is not None:
        statement = statement.where(allocations.c.sku == sku)
    parts: dict[str, list[Line]] = {}
    for row in connection.execute(statement.order_by(allocations.c.sku, allocations.c.part)):
        parts.setdefault(row.sku, []).append(Line(**row._mapping))
    return {known: _line(its) for known, its in parts.items()}


def _batch(row: Any, today: date) -> Json:
    batch = Batch(**{field.name: getattr(row, field.name) for field in fields(Batch)})
    usable = batch.is_good(today)
    return {
        "batchref": batch.batchref,
        "sku": batch.sku,
        "qty": batch.purchased,
        "allocated": batch.allocated,
        "eta": iso(batch.eta),
        "best_before": iso(batch.best_before),
        "blocked": batch.blocked,
        "version": batch.version,
        "free": batch.free if usable else 0,
        "unusable": 0 if usable else batch.free,
        "has_expired": batch.has_expired(today),
        "is_overdue": batch.is_overdue(today),
    }


def _line(parts: list[Line]) -> Json:
    first = parts[0]
    return {
        "orderid": first.orderid,
        "sku": first.sku,
        "qty": sum(part.qty for part in parts),
        "gone": sum(part.gone for part in parts),
        "gone_by_part": {part.part: part.gone for part in parts},
        "priority": first.priority,
        "not_before": iso(first.not_before),
        "fresh_days": first.fresh_days,
        "version": line_version(parts),
    }
