"""What the notification service understands of the events, and nothing more."""

from dataclasses import dataclass

from workers.envelope import Envelope, number, text, version_one


@dataclass(frozen=True, slots=True)
class OutOfStock:
    """The order line waits."""

    orderid: str
    sku: str
    qty: int


@dataclass(frozen=True, slots=True)
class Allocated:
    """The order line is promised stock."""

    orderid: str
    sku: str
    qty: int
    batchref: str


@dataclass(frozen=True, slots=True)
class Deallocated:
    """The order line lost its promise; `cancelled`: because its own caller gave it up."""

    orderid: str
    sku: str
    batchref: str | None
    cancelled: bool


Message = OutOfStock | Allocated | Deallocated


WANTED = ("allocation.out_of_stock", "allocation.allocated", "allocation.deallocated")


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
            )
        case "allocation.deallocated":
            return Deallocated(
                text(data, "orderid"),
                text(data, "sku"),
                None if data.get("batchref") is None else text(data, "batchref"),
                cancelled=event.causationtype == "allocation.deallocate",
            )
    return None
