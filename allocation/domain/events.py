"""What happened to a product, in the past tense."""

from dataclasses import dataclass, field
from datetime import date


@dataclass(frozen=True, slots=True)
class Event:
    """`sequence` numbers the events of one sku from 1 without a gap.

    It is given when the product records the event and does not count in comparisons.
    """

    sequence: int = field(default=0, compare=False, kw_only=True)


@dataclass(frozen=True, slots=True)
class BatchCreated(Event):
    """`qty` pieces were put on the books; no `eta` means that they are on the shelf."""

    batchref: str
    sku: str
    qty: int
    eta: date | None = None


@dataclass(frozen=True, slots=True)
class BatchQuantityChanged(Event):
    """The batch's purchased quantity is now `qty`."""

    batchref: str
    sku: str
    qty: int


@dataclass(frozen=True, slots=True)
class Allocated(Event):
    """The order line is promised `qty` pieces of this batch."""

    orderid: str
    sku: str
    qty: int
    batchref: str


@dataclass(frozen=True, slots=True)
class Deallocated(Event):
    """The order line lost its promise, or was given up; no `batchref`: it was still waiting."""

    orderid: str
    sku: str
    qty: int
    batchref: str | None


@dataclass(frozen=True, slots=True)
class OutOfStock(Event):
    """No batch can serve the order line now; it waits, and is told so once."""

    orderid: str
    sku: str
    qty: int
