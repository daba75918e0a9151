"""The events that the notification service uses, with the fields that it uses."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any

from allocation.messaging.cloudevents import Envelope, day, number, text
from workers.allocation_events import version_one


@dataclass(frozen=True, slots=True)
class Day:
    """When stock is there; `eta` is None if it is on the shelf."""

    eta: date | None


@dataclass(frozen=True, slots=True)
class _Line:
    orderid: str
    sku: str
    part: int = field(default=0, kw_only=True)


@dataclass(frozen=True, slots=True)
class _Pieces(_Line):
    qty: int


@dataclass(frozen=True, slots=True)
class _Served(_Pieces):
    """`waiting` further pieces of the line have no batch yet."""

    batchref: str
    waiting: int = field(default=0, kw_only=True)


class OutOfStock(_Pieces):
    """`qty` pieces of the order line wait, whichever parts they were."""


@dataclass(frozen=True, slots=True)
class Allocated(_Served):
    """A part of the order line is promised stock; a line that one batch serves is the part 0.

    No `day`: an event of a release that did not have it.
    """

    day: Day | None = None


class Reserved(_Served):
    """Stock is reserved for a part of the order line."""


@dataclass(frozen=True, slots=True)
class Deallocated(_Pieces):
    """A part of the order line lost its promise; `cancelled`: its own caller gave the line up."""

    batchref: str | None
    cancelled: bool


@dataclass(frozen=True, slots=True)
class Released(_Pieces):
    """A part of the order line lost its reservation; not `moved`: the line is given up."""

    moved: bool


@dataclass(frozen=True, slots=True)
class PromiseChanged(_Pieces):
    """`qty` pieces of the order line come on another day than they were promised."""

    batchref: str
    old: Day
    new: Day


class Dispatched(_Line):
    """The goods of a part have left."""


@dataclass(frozen=True, slots=True)
class Resized(_Line):
    """The order line wants another number of pieces than before."""

    old_qty: int
    qty: int


LineMessage = (
    OutOfStock
    | Allocated
    | Reserved
    | Deallocated
    | Released
    | PromiseChanged
    | Dispatched
    | Resized
)


@dataclass(frozen=True, slots=True)
class _Batch:
    batchref: str
    sku: str


@dataclass(frozen=True, slots=True)
class Expired(_Batch):
    """The last good day of the batch has passed: `qty` pieces of it serve no line any more."""

    qty: int
    best_before: date | None


@dataclass(frozen=True, slots=True)
class Overdue(_Batch):
    """The batch has not arrived on its day."""

    eta: date | None


@dataclass(frozen=True, slots=True)
class Blocked(_Batch):
    """The batch serves no line until it is unblocked; `qty` pieces of it are held back."""

    qty: int
    reason: str


@dataclass(frozen=True, slots=True)
class Returned(_Batch):
    """Goods came back that nobody can use."""

    orderid: str
    qty: int
    reason: str | None


StockMessage = Expired | Overdue | Blocked | Returned
"""What only the stock team is mailed about."""

Message = LineMessage | StockMessage

WANTED = (
    "allocation.out_of_stock",
    "allocation.allocated",
    "allocation.reserved",
    "allocation.deallocated",
    "allocation.reservation_released",
    "allocation.promise_changed",
    "allocation.dispatched",
    "allocation.line_quantity_changed",
    "allocation.batch_expired",
    "allocation.batch_overdue",
    "allocation.batch_blocked",
    "allocation.returned",
)
REPEATING = ("allocation.confirm", "allocation.extend", "allocation.change_line_quantity")
"""Commands that publish the promises of a line again, mostly with the same batches."""
CANCELLING = ("allocation.deallocate", "allocation.cancel_order")
"""Commands by which its own caller gives a line up."""
RESIZING = "allocation.change_line_quantity"
"""The command that takes a line's promises back only to publish them anew, or with its pieces."""


def parse(event: Envelope) -> Message | None:
    """The event as a message; None if the service doesn't use its type. Raises Unreadable."""
    kind = version_one(event, WANTED)
    if kind is None:
        return None
    data = event.data
    if kind.startswith("allocation.batch_"):
        return _of_batch(kind, data)
    line = (text(data, "orderid"), text(data, "sku"))
    part = _count(data, "part")
    match kind:
        case "allocation.dispatched":
            return Dispatched(*line, part=part)
        case "allocation.line_quantity_changed":
            return Resized(*line, number(data, "old_qty"), number(data, "qty"))
        case "allocation.returned":
            return _returned(data)
    pieces = (*line, number(data, "qty"))
    match kind:
        case "allocation.out_of_stock":
            return OutOfStock(*pieces, part=part)
        case "allocation.reservation_released" if event.causationtype == RESIZING:
            return None
        case "allocation.deallocated" if event.causationtype == RESIZING:
            return None
        case "allocation.reservation_released":
            return Released(*pieces, moved=data.get("reason") == "moved", part=part)
        case "allocation.deallocated":
            batchref = None if data.get("batchref") is None else text(data, "batchref")
            cancelled = event.causationtype in CANCELLING
            return Deallocated(*pieces, batchref, cancelled, part=part)
    served = (*pieces, text(data, "batchref"))
    if kind == "allocation.promise_changed":
        old, new = Day(day(data, "old_eta")), Day(day(data, "new_eta"))
        return PromiseChanged(*served, old, new, part=part)
    waiting = _count(data, "waiting")
    eta = Day(day(data, "eta")) if "eta" in data else None
    if event.causationtype in REPEATING:
        return None
    if kind == "allocation.reserved":
        return Reserved(*served, part=part, waiting=waiting)
    return Allocated(*served, eta, part=part, waiting=waiting)


def _of_batch(kind: str, data: Mapping[str, Any]) -> StockMessage:
    batch = (text(data, "batchref"), text(data, "sku"))
    match kind:
        case "allocation.batch_expired":
            return Expired(*batch, _count(data, "qty"), day(data, "best_before"))
        case "allocation.batch_overdue":
            return Overdue(*batch, day(data, "eta"))
    return Blocked(*batch, _count(data, "qty"), text(data, "reason"))


def _returned(data: Mapping[str, Any]) -> Returned | None:
    """None if the goods can be used: then they are stock again."""
    if data.get("usable") is True:
        return None
    reason = None if data.get("reason") is None else text(data, "reason")
    batch = (text(data, "batchref"), text(data, "sku"))
    return Returned(*batch, text(data, "orderid"), number(data, "qty"), reason)


def _count(data: Mapping[str, Any], name: str) -> int:
    """A number that is absent when it is 0."""
    return number(data, name) if data.get(name) else 0
