"""The books of one product: its batches and lines, and the port by which rules ask for them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OrderLine:
    """`qty` pieces of `sku` that the order `orderid` wants, for `customer`.

    `split`: several batches may serve it. The contract's schemas refuse a quantity below one.
    """

    orderid: str
    sku: str
    qty: int
    customer: str | None = None
    split: bool = False


@dataclass(eq=False)
class Batch:
    """Stock of one sku that came, or will come, together; no `eta` means on the shelf.

    `best_before` is the day until which it is good, if there is one.
    """

    batchref: str
    sku: str
    purchased: int
    eta: date | None = None
    allocated: int = 0
    best_before: date | None = None

    @property
    def free(self) -> int:
        """Pieces that are promised to no line."""
        return self.purchased - self.allocated

    @property
    def arrival(self) -> date:
        return arrival(self.eta)

    @property
    def expiry(self) -> date:
        """A day to compare by: stock without `best_before` expires after every day."""
        return self.best_before or date.max


def arrival(eta: date | None) -> date:
    """A day to compare by: what is on the shelf comes before every day."""
    return eta or date.min


@dataclass(eq=False)
class Line:
    """An order line on the books: promised stock of `batchref`, or waiting when that is None.

    A line that may be split has a `smallest_part`. It has one part for each batch that serves it,
    and one at most that waits. No number of a part is used twice: `last_part` is the highest one
    that was ever given to the line, as far as this part knows.

    `age` is the product's version when the line came: the lower, the older. `promised_at` is the
    sequence of the event that promised the stock, and `eta` the day that was promised, None for the
    shelf. `told` says whether OutOfStock was recorded for the present wait.

    A line with `expires_at` is held until then, which can be `extended` once. A line that was
    `dispatched` keeps its batchref, and holds nothing of the batch any more.
    """

    orderid: str
    sku: str
    qty: int
    age: int
    customer: str | None = None
    smallest_part: int | None = None
    part: int = 0
    last_part: int = 0
    batchref: str | None = None
    promised_at: int | None = None
    eta: date | None = None
    told: bool = False
    expires_at: datetime | None = None
    extended: bool = False
    dispatched: bool = False

    @property
    def split(self) -> bool:
        """Whether several batches may serve it."""
        return self.smallest_part is not None

    @property
    def needs(self) -> int:
        """The fewest pieces that serve it, or a part of it."""
        return self.smallest_part or self.qty

    @property
    def status(self) -> str:
        return status_of(self.batchref, self.expires_at, dispatched=self.dispatched)


def status_of(batchref: str | None, expires_at: datetime | None, *, dispatched: bool) -> str:
    """The status of a line, or of a part: waiting, reserved, allocated or dispatched."""
    if batchref is None:
        return "waiting"
    if dispatched:
        return "dispatched"
    return "allocated" if expires_at is None else "reserved"


def status_of_parts(statuses: Iterable[str]) -> str:
    """The status of a whole line: that of all its parts, or `in parts`."""
    different = set(statuses)
    return different.pop() if len(different) == 1 else "in parts"


class Books(Protocol):
    """What a product asks of its books; storage answers each question by an index."""

    def open_batches(self) -> Sequence[Batch]:
        """Every batch with free stock, in any order; others may be among them."""
        ...

    def batch(self, batchref: str) -> Batch | None: ...

    def parts(self, orderid: str) -> Sequence[Line]:
        """All there is of the order's line, by part: mostly one, or none."""
        ...

    def first_waiting(self, at_most: int, after: Line | None = None) -> Line | None:
        """The first waiting line by `service_order`, behind `after`, that `at_most` pieces serve.

        A product that goes on behind the line that it got asks for no more pieces than before.
        """
        ...

    def waiting_unannounced(self, limit: int) -> Sequence[Line]:
        """The first waiting lines by `service_order` for which OutOfStock was not recorded."""
        ...

    def lines_that_give_way(self, batchref: str) -> Iterator[Line]:
        """The lines that hold stock of this batch, by `shortage_order`."""
        ...

    def promised_another_day(self, batch: Batch, limit: int) -> Sequence[Line]:
        """The first `limit` lines of this batch that were promised another day than its ETA.

        They come in the order of their promises.
        """
        ...

    def add_batch(self, batch: Batch) -> None: ...

    def add_line(self, line: Line) -> None: ...

    def remove_line(self, line: Line) -> None: ...
