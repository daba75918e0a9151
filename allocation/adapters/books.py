"""The books of one product in SQL: each question is one indexed query, however long the history."""

from collections.abc import Iterator, Sequence

from sqlalchemy import select
from sqlalchemy.orm import Session

from allocation.adapters import tables
from allocation.domain.books import Allocation, Batch

CHUNK = 100
"""Lines fetched by one query while a pass goes through many."""


class SqlBooks:
    """Valid while the product's row is locked; queries flush what was changed before them."""

    def __init__(self, session: Session, sku: str) -> None:
        self._session = session
        self._sku = sku
        self._batches: dict[str, Batch] = {}
        self._has_open = False
        self._waiting: list[Allocation] = []

    def open_batches(self) -> Sequence[Batch]:
        if not self._has_open:
            query = select(Batch).where(tables.batches.c.sku == self._sku, tables.is_open)
            self._batches.update({batch.batchref: batch for batch in self._session.scalars(query)})
            self._has_open = True
        return list(self._batches.values())

    def batch(self, batchref: str) -> Batch | None:
        if batchref not in self._batches:
            batch = self._session.get(Batch, batchref)
            if batch is None or batch.sku != self._sku:
                return None
            self._batches[batchref] = batch
        return self._batches[batchref]

    def line(self, orderid: str) -> Allocation | None:
        return self._session.get(Allocation, (orderid, self._sku))

    def oldest_waiting(self, at_most: int, after: int) -> Allocation | None:
        if at_most < 1:
            return None
        if after == 0:
            self._waiting = []
        fitting = [line for line in self._waiting if line.age > after and line.qty <= at_most]
        if not fitting:
            columns = tables.allocations.c
            found = self._session.scalars(
                select(Allocation)
                .where(columns.sku == self._sku, tables.waits)
                .where(columns.qty <= at_most, columns.age > after)
                .order_by(columns.age)
                .limit(CHUNK)
            )
            fitting = list(found)
        self._waiting = fitting
        return fitting[0] if fitting else None

    def untold(self, limit: int) -> Sequence[Allocation]:
        columns = tables.allocations.c
        return list(
            self._session.scalars(
                select(Allocation)
                .where(columns.sku == self._sku, tables.untold)
                .order_by(columns.age)
                .limit(limit)
            )
        )

    def promised(self, batchref: str) -> Iterator[Allocation]:
        columns = tables.allocations.c
        query = (
            select(Allocation)
            .where(columns.batchref == batchref)
            .order_by(columns.promised_at.desc())
            .limit(CHUNK)
        )
        # What was released since is not promised any more: the same query brings the next ones.
        while chunk := list(self._session.scalars(query)):
            yield from chunk

    def add_batch(self, batch: Batch) -> None:
        self._session.add(batch)
        self._batches[batch.batchref] = batch

    def add_line(self, line: Allocation) -> None:
        self._session.add(line)

    def remove_line(self, line: Allocation) -> None:
        self._session.delete(line)
