"""The books of one product: its batches and lines, and the port by which rules ask for them."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from hashlib import blake2b
from typing import Protocol


@dataclass(frozen=True, slots=True)
class OrderLine:
    """`qty` pieces of `sku` that the order `orderid` wants, for `customer`.

    `split`: several batches may serve it. `priority`: 0 to 9, the higher is served first.
    `not_before`: the customer wants it no earlier. `fresh_days`: how many days it must still be
    good when the customer needs it. The contract's schemas refuse a quantity below one.
    """

    orderid: str
    sku: str
    qty: int
    customer: str | None = None
    split: bool = False
    priority: int = 0
    not_before: date | None = None
    fresh_days: int = 0


@dataclass(eq=False)
class Batch:
    """Stock of one sku that came, or will come, together; no `eta` means on the shelf.

    `best_before` is the last day on which it is good, if there is one. A batch that is `blocked`
    (the reason) serves no line. `expired` and `overdue` say whether BatchExpired and BatchOverdue
    were recorded for its present `best_before` and `eta`.
    """

    batchref: str
    sku: str
    purchased: int
    eta: date | None = None
    allocated: int = 0
    best_before: date | None = None
    blocked: str | None = None
    expired: bool = False
    overdue: bool = False

    @property
    def free(self) -> int:
        """Pieces that are promised to no line."""
        return self.purchased - self.allocated

    @property
    def version(self) -> str:
        """Changes with the batch's quantity, days and block, and not with its promises."""
        return fingerprint(self.purchased, self.eta, self.best_before, self.blocked)

    def is_overdue(self, today: date) -> bool:
        """Whether its ETA has passed and it has not arrived; its arrival is unknown."""
        return self.eta is not None and self.eta < today

    def has_expired(self, today: date) -> bool:
        return self.best_before is not None and self.best_before < today

    def is_good(self, today: date) -> bool:
        """Whether it serves a line without wishes of its own: not blocked, and does not expire."""
        return self.blocked is None and (
            self.best_before is None or self.best_before >= max(today, self.arrival)
        )

    def serves(self, line: "Line | OrderLine", today: date) -> bool:
        """Whether it is not blocked, and still good on the day on which the line needs it."""
        if self.blocked is not None:
            return False
        if self.best_before is None:
            return True
        needed = max(today, self.arrival, line.not_before or date.min)
        return (self.best_before - needed).days >= line.fresh_days

    def why_it_stays(self, today: date) -> str | None:
        """Why none of it can leave now; None if it can."""
        if self.blocked is not None:
            return "blocked"
        if self.eta is not None:
            return "not arrived"
        return "expired" if self.has_expired(today) else None

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

    A line with `expires_at` is held until then, which can be `extended` once. `dispatched_qty`
    pieces have left, and the rest is still promised; a line that was `dispatched` has left as a
    whole. It keeps its batchref, and holds nothing of the batch any more. `returned` counts the
    dispatched pieces that came back.
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
    priority: int = 0
    not_before: date | None = None
    fresh_days: int = 0
    dispatched_qty: int = 0
    returned: int = 0

    @property
    def gone(self) -> int:
        """Pieces that have left."""
        return self.qty if self.dispatched else self.dispatched_qty

    @property
    def held(self) -> int:
        """Pieces of the batch that are promised to the line, and have not left."""
        return 0 if self.batchref is None else self.qty - self.gone

    @property
    def is_particular(self) -> bool:
        """Whether not every batch that is good serves it."""
        return self.fresh_days > 0 or self.not_before is not None

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


def fingerprint(*facts: object) -> str:
    """A short text that differs if one of the facts does; `expected_version` is compared to it."""
    return blake2b(repr(facts).encode(), digest_size=8).hexdigest()


def line_version(parts: Iterable[Line]) -> str:
    """Changes with the line's quantity, priority, batches and status."""
    facts = ((part.part, part.qty, part.batchref, part.status, part.gone) for part in parts)
    return fingerprint(sorted(facts), {part.priority for part in parts})


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
        """Every batch with free stock that may serve, in any order; others may be among them."""
        ...

    def batch(self, batchref: str) -> Batch | None: ...

    def parts(self, orderid: str) -> Sequence[Line]:
        """All there is of the order's line, by part: mostly one, or none."""
        ...

    def first_waiting(
        self, batches: Sequence[Batch], today: date, after: Line | None = None
    ) -> Line | None:
        """The first waiting line by `service_order`, behind `after`, that one of `batches` serves.

        A product that goes on behind the line that it got offers no more than before.
        """
        ...

    def longest_waiting(self) -> Line | None:
        """The first waiting line by `service_order`, whether or not something serves it."""
        ...

    def promised_later(self, batches: Sequence[Batch], today: date) -> Line | None:
        """The first line by `service_order` that one of `batches` serves earlier than promised.

        All that the line holds has to fit. A line with `not_before` stays where it is.
        """
        ...

    def waiting_unannounced(self, limit: int) -> Sequence[Line]:
        """The first waiting lines by `service_order` for which OutOfStock was not recorded."""
        ...

    def lines_that_give_way(self, batchref: str) -> Iterator[Line]:
        """The lines that hold stock of this batch, by `shortage_order`."""
        ...

    def particular_lines(self, batchref: str) -> Sequence[Line]:
        """The lines that hold stock of this batch and are particular."""
        ...

    def promised_another_day(self, batch: Batch, limit: int) -> Sequence[Line]:
        """The first `limit` lines of this batch that were promised another day than its ETA.

        They come in the order of their promises.
        """
        ...

    def add_batch(self, batch: Batch) -> None: ...

    def add_line(self, line: Line) -> None: ...

    def remove_line(self, line: Line) -> None: ...
