"""What happened to a product, in the past tense."""

from dataclasses import dataclass, field
from datetime import date, datetime


@dataclass(frozen=True, slots=True)
class Candidate:
    """A batch that might have served a line, with its ETA and free pieces at that moment."""

    batchref: str
    eta: date | None
    free: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Why a batch serves a line, or none does: the open batches, by preference.

    `considered` has the batches up to the one that served, or all if none did; of many, only the
    first ones and the last.
    """

    candidates: int
    considered: tuple[Candidate, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """`sequence` numbers the events of one sku from 1 without a gap.

    The product sets it when it records the event. Neither it nor `choice` counts in comparisons;
    `choice` explains the event to people and is not published.
    """

    sequence: int = field(default=0, compare=False, kw_only=True)
    choice: Choice | None = field(default=None, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class LineEvent(Event):
    """What happened to an order line, or to a `part` of it, where several batches serve it."""

    part: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class BatchCreated(Event):
    """`qty` pieces were put on the books; no `eta` means that they are on the shelf."""

    batchref: str
    sku: str
    qty: int
    eta: date | None = None
    best_before: date | None = None


@dataclass(frozen=True, slots=True)
class StrategyChosen(Event):
    """The product's batches serve in this order from now on."""

    sku: str
    strategy: str
    waiting: str = "fill"
    improve: bool = True


@dataclass(frozen=True, slots=True)
class ProductCreated(Event):
    """The product is known from now on, before its first batch."""

    sku: str
    strategy: str
    waiting: str
    improve: bool


@dataclass(frozen=True, slots=True)
class BatchQuantityChanged(Event):
    """The batch's purchased quantity is now `qty`."""

    batchref: str
    sku: str
    qty: int


@dataclass(frozen=True, slots=True)
class BatchEtaChanged(Event):
    """The batch arrives on another day; no `eta`: it is on the shelf."""

    batchref: str
    sku: str
    eta: date | None


@dataclass(frozen=True, slots=True)
class WrittenOff(Event):
    """`qty` pieces of the batch are gone, for this reason; its quantity follows as an event."""

    batchref: str
    sku: str
    qty: int
    reason: str


@dataclass(frozen=True, slots=True)
class Received(Event):
    """`qty` pieces were added to the batch; its quantity follows as an event."""

    batchref: str
    sku: str
    qty: int


@dataclass(frozen=True, slots=True)
class BestBeforeChanged(Event):
    """The batch is good until another day; no `best_before`: for ever."""

    batchref: str
    sku: str
    best_before: date | None


@dataclass(frozen=True, slots=True)
class BatchBlocked(Event):
    """The batch serves no line until it is unblocked; `qty` pieces are held back."""

    batchref: str
    sku: str
    qty: int
    reason: str


@dataclass(frozen=True, slots=True)
class BatchUnblocked(Event):
    """The batch serves lines again."""

    batchref: str
    sku: str


@dataclass(frozen=True, slots=True)
class BatchExpired(Event):
    """The batch's last good day has passed: `qty` pieces of it serve no line any more."""

    batchref: str
    sku: str
    qty: int
    best_before: date


@dataclass(frozen=True, slots=True)
class BatchOverdue(Event):
    """The batch has not arrived on its day; its arrival is unknown."""

    batchref: str
    sku: str
    eta: date


@dataclass(frozen=True, slots=True)
class Allocated(LineEvent):
    """The order line is promised `qty` pieces of this batch, which arrives on that day.

    `waiting` pieces of the same line still wait, if it may be split.
    """

    orderid: str
    sku: str
    qty: int
    batchref: str
    eta: date | None = None
    customer: str | None = None
    waiting: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Reserved(LineEvent):
    """`qty` pieces of this batch are held for the order line until then.

    `waiting` pieces of the same line still wait, if it may be split.
    """

    orderid: str
    sku: str
    qty: int
    batchref: str
    eta: date | None
    expires_at: datetime
    customer: str | None = None
    waiting: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class ReservationReleased(LineEvent):
    """The order line is held no more; no `batchref`: it was still waiting.

    `reason` is `released` by the caller, `expired`, or `moved`: it goes to another batch, or waits.
    """

    orderid: str
    sku: str
    qty: int
    batchref: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Dispatched(LineEvent):
    """`qty` pieces of the order line have left: they are off the batch's books.

    `left` pieces of the part are still promised by the same batch.
    """

    orderid: str
    sku: str
    qty: int
    batchref: str
    left: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class Returned(Event):
    """`qty` dispatched pieces came back; if they are usable, the batch's quantity follows."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    usable: bool
    reason: str | None


@dataclass(frozen=True, slots=True)
class LineQuantityChanged(Event):
    """The order line wants `qty` pieces; what that changes of its promises follows as events."""

    orderid: str
    sku: str
    old_qty: int
    qty: int


@dataclass(frozen=True, slots=True)
class PriorityChanged(Event):
    """The order line is served by this priority from now on."""

    orderid: str
    sku: str
    priority: int


@dataclass(frozen=True, slots=True)
class PromiseChanged(LineEvent):
    """The order line, which this batch serves now, comes on another day than it was promised."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    old_eta: date | None
    new_eta: date | None


@dataclass(frozen=True, slots=True)
class Deallocated(LineEvent):
    """The order line lost its promise, or was given up; no `batchref`: it was still waiting."""

    orderid: str
    sku: str
    qty: int
    batchref: str | None


@dataclass(frozen=True, slots=True)
class OutOfStock(LineEvent):
    """No batch can serve the order line now; it waits. Recorded once per wait."""

    orderid: str
    sku: str
    qty: int
