"""Stock: products and their batches."""

from datetime import date
from typing import Any

from sqlalchemy import Connection, collate, func, select

from allocation.adapters.database import is_postgresql
from allocation.adapters.tables import allocations, batches, is_open, products, waits
from allocation.views import Json

BATCHES_SHOWN = 100
"""Open batches that a product's answer lists at most; its figures count all of them."""

_available = batches.c.purchased - batches.c.allocated


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


def batches_of(
    connection: Connection, sku: str, *, after: str | None = None, limit: int = 50
) -> list[Json]:
    """The product's batches that hold something: the shelf first, then by arrival.

    Those after the batch `after`, of whatever state; costs grow with all batches of the product.
    """
    # PostgreSQL would order references by its locale.
    tie = collate(batches.c.batchref, "C") if is_postgresql(connection) else batches.c.batchref
    eta = batches.c.eta
    # The batches of a product that hold something, in the order of their arrival.
    statement = (
        select(batches)
        .where(batches.c.sku == sku, batches.c.purchased > 0)
        .order_by(eta.is_not(None), eta, tie)
        .limit(limit)
    )
    if after is not None:
        # When the last one of the page before arrives.
        last = connection.scalar(select(eta).where(batches.c.batchref == after))
        same_day = (eta.is_(None) if last is None else eta == last) & (tie > after)
        later = eta.is_not(None) if last is None else eta > last
        statement = statement.where(same_day | later)
    return [_batch(row) for row in connection.execute(statement)]


def batch(connection: Connection, batchref: str) -> Json | None:
    """One batch, open or used up; None for a reference that nobody has."""
    # One batch by its reference.
    row = connection.execute(select(batches).where(batches.c.batchref == batchref)).first()
    return {"sku": row.sku, **_batch(row)} if row else None


def day(eta: date | None) -> str | None:
    """The day as YYYY-MM-DD."""
    return eta.isoformat() if eta else None


def _batch(row: Any) -> Json:
    return {
        "batchref": row.batchref,
        "qty": row.purchased,
        "allocated": row.allocated,
        "available": row.purchased - row.allocated,
        "eta": day(row.eta),
        "best_before": day(row.best_before),
    }
