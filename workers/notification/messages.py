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


Message = OutOfStock | Allocated | Reserved | Deallocated | Released | PromiseChanged | Dispatched


WANTED = (
    "allocation.out_of_stock",
    "allocation.allocated",
    "allocation.reserved",
    "allocation.deallocated",
    "allocation.reservation_released",
    "allocation.promise_changed",
    "allocation.dispatched",
)
REPEATING = ("allocation.confirm", "allocation.extend")
"""Commands that publish the promises of a held line again, with the same batches."""


def parse(event: Envelope) -> Message | None:
    """The event as a message; None if the service doesn't use its type. Raises Unreadable."""
    kind = version_one(event, WANTED)
    if kind is None:
        return None
    data = event.data
    line = (text(data, "orderid"), text(data, "sku"))
    part = _count(data, "part")
    if kind == "allocation.dispatched":
        return Dispatched(*line, part=part)
    pieces = (*line, number(data, "qty"))
    match kind:
        case "allocation.out_of_stock":
            return OutOfStock(*pieces, part=part)
        case "allocation.reservation_released":
            return Released(*pieces, moved=data.get("reason") == "moved", part=part)
        case "allocation.deallocated":
            batchref = None if data.get("batchref") is None else text(data, "batchref")
            cancelled = event.causationtype == "allocation.deallocate"
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


def _count(data: Mapping[str, Any], name: str) -> int:
    """A number that is absent when it is 0."""
    return number(data, name) if data.get(name) else 0
