"""All batches and all order lines, row by row: the database sends them as they are read."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Select, func, select

from allocation.adapters.sql.tables import allocations, batches, products
from allocation.domain.books import status_of
from allocation.views.stock import iso

CHUNK = 1000
"""Rows that are in memory at once."""

Cells = tuple[object, ...]


@dataclass(frozen=True, slots=True)
class Export:
    """A table for others: its columns, the rows that become it, and the cells of each.

    `left_out` are rows that an import could not accept.
    """

    columns: tuple[str, ...]
    rows: Select[Any]
    cells: Callable[[Any], Cells]
    left_out: Select[Any] | None = None

    def count(self, connection: Connection) -> tuple[int, int]:
        """How many rows there are, and how many are left out."""

        def number(of: Select[Any]) -> int:
            return connection.scalar(select(func.count()).select_from(of.subquery())) or 0

        return number(self.rows), 0 if self.left_out is None else number(self.left_out)

    def read(self, connection: Connection) -> Iterator[Sequence[Cells]]:
        """The cells, by chunks."""
        found = connection.execution_options(yield_per=CHUNK).execute(self.rows)
        cells = map(self.cells, found)
        while chunk := list(islice(cells, CHUNK)):
            yield chunk


def all_batches(sku: str | None) -> Export:
    """As `allocation import-batches` reads them: it takes no batch without a piece."""
    columns = batches.c
    every = select(columns.batchref, columns.sku, columns.purchased, columns.eta)
    every = every.add_columns(columns.best_before)
    if sku is not None:
        every = every.where(columns.sku == sku)
    return Export(
        ("batchref", "sku", "qty", "eta", "best_before"),
        every.where(columns.purchased >= 1).order_by(columns.batchref),
        lambda row: (row.batchref, row.sku, row.purchased, iso(row.eta), iso(row.best_before)),
        left_out=every.where(columns.purchased < 1),
    )


def all_lines(sku: str | None) -> Export:
    """Every line of every order, a part of a split one for itself."""
    columns = allocations.c
    every = select(allocations, batches.c.eta.label("batch_eta")).outerjoin(
        batches, batches.c.batchref == columns.batchref
    )
    if sku is not None:
        every = every.where(columns.sku == sku)
    return Export(
        (
            *("orderid", "sku", "part", "qty", "status", "batchref", "eta", "expires_at"),
            *("customer", "priority", "not_before", "fresh_days", "dispatched_qty", "returned"),
        ),
        every.order_by(columns.orderid, columns.sku, columns.part),
        lambda row: (
            *(row.orderid, row.sku, row.part, row.qty),
            status_of(row.batchref, row.expires_at, dispatched=row.dispatched),
            row.batchref,
            iso(row.batch_eta),
            iso(row.expires_at),
            row.customer,
            *(row.priority, iso(row.not_before), row.fresh_days),
            row.qty if row.dispatched else row.dispatched_qty,
            row.returned,
        ),
    )


def knows(connection: Connection, sku: str) -> bool:
    """Whether there is such a product."""
    return connection.scalar(select(products.c.sku).where(products.c.sku == sku)) is not None
