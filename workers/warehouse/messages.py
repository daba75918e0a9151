"""The events that the warehouse uses, with the fields that it uses."""

from dataclasses import dataclass

from allocation.messaging.cloudevents import Envelope, number, text
from workers.allocation_events import version_one


@dataclass(frozen=True, slots=True)
class _Pieces:
    """`qty` pieces of an order line; a line that several batches serve has parts."""

    orderid: str
    sku: str
    qty: int
    batchref: str | None
    part: int = 0


@dataclass(frozen=True, slots=True)
class Allocated(_Pieces):
    """Pick the pieces from this batch."""

    batchref: str


@dataclass(frozen=True, slots=True)
class Deallocated(_Pieces):
    """Don't pick the pieces any more; `batchref` is None if nothing was promised."""


@dataclass(frozen=True, slots=True)
class Dispatched(_Pieces):
    """Allocation has taken the pieces off its books, after the warehouse dispatched them."""

    batchref: str


Message = Allocated | Deallocated | Dispatched

WANTED = ("allocation.allocated", "allocation.deallocated", "allocation.dispatched")


def parse(event: Envelope) -> Message | None:
    """The event as a message; None if the warehouse doesn't use its type. Raises Unreadable."""
    data = event.data
    part = number(data, "part") if data.get("part") else 0
    kind = version_one(event, WANTED)
    if kind is None:
        return None
    line = (text(data, "orderid"), text(data, "sku"), number(data, "qty"))
    if kind == "allocation.deallocated" and data.get("batchref") is None:
        return Deallocated(*line, None, part)
    batchref = text(data, "batchref")
    match kind:
        case "allocation.allocated":
            return Allocated(*line, batchref, part)
        case "allocation.dispatched":
            return Dispatched(*line, batchref, part)
    return Deallocated(*line, batchref, part)
