"""What the notification service understands of the events, and nothing more."""

from dataclasses import dataclass
from datetime import date

from workers.envelope import Envelope, day, number, text, version_one


@dataclass(frozen=True, slots=True)
class Day:
    """When stock is there; no `eta`: it is on the shelf."""

    eta: date | None


@dataclass(frozen=True, slots=True)
class OutOfStock:
    """The order line waits."""

    orderid: str
    sku: str
    qty: int


@dataclass(frozen=True, slots=True)
class Allocated:
    """The order line is promised stock; no `day`: an event of a release that did not tell it."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    day: Day | None = None


@dataclass(frozen=True, slots=True)
class Deallocated:
    """The order line lost its promise; `cancelled`: because its own caller gave it up."""

    orderid: str
    sku: str
    batchref: str | None
    cancelled: bool


@dataclass(frozen=True, slots=True)
class PromiseChanged:
    """The order line comes on another day than it was promised."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    old: Day
    new: Day


Message = OutOfStock | Allocated | Deallocated | PromiseChanged


WANTED = (
    "allocation.out_of_stock",
    "allocation.allocated",
    "allocation.deallocated",
    "allocation.promise_changed",
)


def parse(event: Envelope) -> Message | None:
    """The event in this service's words; None when it does not concern it. Raises Unreadable."""
    data = event.data
    match version_one(event, WANTED):
        case "allocation.out_of_stock":
            return OutOfStock(text(data, "orderid"), text(data, "sku"), number(data, "qty"))
        case "allocation.allocated":
            return Allocated(
                text(data, "orderid"),
                text(data, "sku"),
                number(data, "qty"),
                text(data, "batchref"),
                Day(day(data, "eta")) if "eta" in data else None,
            )
        case "allocation.promise_changed":
            return PromiseChanged(
                text(data, "orderid"),
                text(data, "sku"),
                number(data, "qty"),
                text(data, "batchref"),
                old=Day(day(data, "old_eta")),
                new=Day(day(data, "new_eta")),
            )
        case "allocation.deallocated":
            return Deallocated(
                text(data, "orderid"),
                text(data, "sku"),
                None if data.get("batchref") is None else text(data, "batchref"),
                cancelled=event.causationtype == "allocation.deallocate",
            )
    return None
