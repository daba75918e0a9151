"""The events that the warehouse uses, with the fields that it uses."""

from dataclasses import dataclass

from allocation.messaging.cloudevents import Envelope, number, text
from workers.allocation_events import version_one


@dataclass(frozen=True, slots=True)
class Allocated:
    """Pick `qty` pieces of this batch for the order; a line of several batches has parts."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    part: int = 0


@dataclass(frozen=True, slots=True)
class Deallocated:
    """Don't pick for this order any more; `batchref` is None if nothing was promised."""

    orderid: str
    sku: str
    qty: int
    batchref: str | None
    part: int = 0


@dataclass(frozen=True, slots=True)
class Dispatched:
    """Allocation has taken the goods off its books, after the warehouse dispatched them."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    part: int = 0


Message = Allocated | Deallocated | Dispatched

WANTED = ("allocation.allocated", "allocation.deallocated", "allocation.dispatched")


def parse(event: Envelope) -> Message | None:
    """The event as a message; None if the warehouse doesn't use its type. Raises Unreadable."""
    data = event.data
    part = number(data, "part") if data.get("part") else 0
    match version_one(event, WANTED):
        case "allocation.allocated":
            return Allocated(
                text(data, "orderid"),
                text(data, "sku"),
                number(data, "qty"),
                text(data, "batchref"),
                part,
            )
        case "allocation.dispatched":
            return Dispatched(
                text(data, "orderid"),
                text(data, "sku"),
                number(data, "qty"),
                text(data, "batchref"),
                part,
            )
        case "allocation.deallocated":
            batchref = None if data.get("batchref") is None else text(data, "batchref")
            return Deallocated(
                text(data, "orderid"), text(data, "sku"), number(data, "qty"), batchref, part
            )
    return None
