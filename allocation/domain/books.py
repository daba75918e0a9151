"""The books of one product: its batches and lines, indexed the ways its rules ask."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OrderLine:
    """`qty` pieces of `sku` that the order `orderid` wants, for some `customer` or other.

    `split`: several batches may serve it.
    """

    orderid: str
    sku: str
    qty: int
    customer: str | None = None
    split: bool = False


class Batch:
    """Stock of one sku that came, or will come, together; no `eta` means on the shelf.

    `best_before` is the day until which it is good, if there is one.
    """

    def __init__(
        self,
        batchref: str,
        sku: str,
        purchased: int,
        eta: date | None = None,
        allocated: int = 0,
        best_before: date | None = None,
    ) -> None:
        self.batchref = batchref
        self.sku = sku
        self.purchased = purchased
        self.allocated = allocated
        self.eta = eta
        self.best_before = best_before

    @property
    def free(self) -> int:
        """Pieces that nobody is promised."""
        return self.purchased - self.allocated


class Allocation:
    """An order line on the books: promised stock of `batchref`, or waiting when that is None.

    One that may be split, as it has a `smallest_part`, has one part for each batch that serves it,
    and one at most that waits. No number of a part is used twice: `last_part` is the highest one
    that was ever given to the line, as far as this part knows.

    `age` is the product's version when the line came: the lower, the older. `promised_at` is the
    sequence of the event that promised the stock, and `eta` the day that was promised, None for the
    shelf. `told` says whether OutOfStock was recorded for the present wait.

    A line with `expires_at` is held until then, which can be `extended` once. What was `dispatched`
    keeps its batchref, and holds nothing of the batch any more.
    """

    def __init__(
        self,
        orderid: str,
        sku: str,
        qty: int,
        age: int,
        customer: str | None = None,
        split: bool = False,
        part: int = 0,
    ) -> None:
        self.orderid = orderid
        self.sku = sku
        self.qty = qty
        self.age = age
        self.customer = customer
        self.smallest_part = 1 if split else None
        self.part = part
        self.last_part = 0
        self.batchref: str | None = None
        self.promised_at: int | None = None
        self.eta: date | None = None
        self.told = False
        self.expires_at: datetime | None = None
        self.extended = False
        self.dispatched = False

    @property
    def split(self) -> bool:
        """Whether several batches may serve it."""
        return self.smallest_part is not None

    @property
    def needs(self) -> int:
        """The fewest pieces that serve it, or a part of it."""
        return self.smallest_part or self.qty


class Books(Protocol):
    """What a product asks of its books; storage answers each question by an index."""

    def open_batches(self) -> Sequence[Batch]:
        """Every batch with free stock, in any order; others may be among them."""
        ...

    def batch(self, batchref: str) -> Batch | None: ...

    def parts(self, orderid: str) -> Sequence[Allocation]:
        """All there is of the order's line, by part: mostly one, or none."""
        ...

    def oldest_waiting(self, at_most: int, after: int) -> Allocation | None:
        """The oldest waiting line with an age above `after` that needs `at_most` pieces or fewer.

        In one pass `after` only grows and `at_most` only shrinks; a pass begins with `after` 0.
        """
        ...

    def untold(self, limit: int) -> Sequence[Allocation]:
        """The oldest `limit` waiting lines that were not told OutOfStock."""
        ...

    def promised(self, batchref: str) -> Iterator[Allocation]:
        """The lines that hold stock of this batch: first the reservations, the most recent first.

        Then the allocations, the most recent first.
        """
        ...

    def promised_another_day(self, batch: Batch, limit: int) -> Sequence[Allocation]:
        """The first `limit` lines of this batch that were promised another day than its ETA.

        Whoever was promised first comes first.
        """
        ...

    def add_batch(self, batch: Batch) -> None: ...

    def add_line(self, line: Allocation) -> None: ...

    def remove_line(self, line: Allocation) -> None: ...


class MemoryBooks:
    """Books kept in two dictionaries: for tests, and for a product that is not stored yet."""

    def __init__(self, batches: Iterable[Batch] = (), lines: Iterable[Allocation] = ()) -> None:
        self.batches = {batch.batchref: batch for batch in batches}
        self.lines = {(line.orderid, line.part): line for line in lines}

    def open_batches(self) -> Sequence[Batch]:
        return [batch for batch in self.batches.values() if batch.free > 0]

    def batch(self, batchref: str) -> Batch | None:
        return self.batches.get(batchref)

    def parts(self, orderid: str) -> Sequence[Allocation]:
        parts = [line for (known, _), line in self.lines.items() if known == orderid]
        return sorted(parts, key=lambda line: line.part)

    def oldest_waiting(self, at_most: int, after: int) -> Allocation | None:
        fitting = (line for line in self._waiting() if line.needs <= at_most and line.age > after)
        return min(fitting, key=lambda line: line.age, default=None)

    def untold(self, limit: int) -> Sequence[Allocation]:
        untold = (line for line in self._waiting() if not line.told)
        return sorted(untold, key=lambda line: line.age)[:limit]

    def promised(self, batchref: str) -> Iterator[Allocation]:
        return iter(
            sorted(
                self._holding(batchref),
                key=lambda line: (line.expires_at is None, -(line.promised_at or 0)),
            )
        )

    def promised_another_day(self, batch: Batch, limit: int) -> Sequence[Allocation]:
        lines = (line for line in self._holding(batch.batchref) if line.eta != batch.eta)
        return sorted(lines, key=lambda line: line.promised_at or 0)[:limit]

    def add_batch(self, batch: Batch) -> None:
        self.batches[batch.batchref] = batch

    def add_line(self, line: Allocation) -> None:
        self.lines[line.orderid, line.part] = line

    def remove_line(self, line: Allocation) -> None:
        del self.lines[line.orderid, line.part]

    def _holding(self, batchref: str) -> Iterable[Allocation]:
        return (
            line
            for line in self.lines.values()
            if line.batchref == batchref and not line.dispatched
        )

    def _waiting(self) -> Iterable[Allocation]:
        return (line for line in self.lines.values() if line.batchref is None)
