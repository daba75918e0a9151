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
    """The order line's goods have left: they are off the batch's books."""

    orderid: str
    sku: str
    qty: int
    batchref: str


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
