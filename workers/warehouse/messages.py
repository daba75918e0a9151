"""The events that the warehouse uses, with the fields that it uses."""

from dataclasses import dataclass
from datetime import date

from allocation.messaging.cloudevents import Envelope, day, number, text
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
    """Pick the pieces from this batch, which arrives on the day `eta`; None: it is there."""

    batchref: str
    eta: date | None = None


@dataclass(frozen=True, slots=True)
class Deallocated(_Pieces):
    """Don't pick the pieces any more; `batchref` is None if nothing was promised."""


@dataclass(frozen=True, slots=True)
class Dispatched(_Pieces):
    """Allocation has taken the pieces off its books, after the warehouse dispatched them.

    `left` pieces of the part are still to be picked from the same batch.
    """

    batchref: str
    left: int = 0


@dataclass(frozen=True, slots=True)
class PromiseChanged(_Pieces):
    """The batch that the pieces come from arrives on the day `eta`; None: it is there."""

    batchref: str
    eta: date | None = None


Message = Allocated | Deallocated | Dispatched | PromiseChanged

WANTED = (
    "allocation.allocated",
    "allocation.deallocated",
    "allocation.dispatched",
    "allocation.promise_changed",
)


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
            # An event of a release that did not have the day is about goods that may be there.
            return Allocated(*line, batchref, part, day(data, "eta") if "eta" in data else None)
        case "allocation.dispatched":
            left = number(data, "left") if data.get("left") else 0
            return Dispatched(*line, batchref, part, left)
        case "allocation.promise_changed":
            return PromiseChanged(*line, batchref, part, day(data, "new_eta"))
    return Deallocated(*line, batchref, part)
