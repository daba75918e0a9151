"""The events that the notification service uses, with the fields that it uses."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any

from allocation.messaging.cloudevents import Envelope, day, number, text
from workers.allocation_events import version_one


@dataclass(frozen=True, slots=True)
class Day:
    """When stock is there; `eta` is None if it is on the shelf."""

    eta: date | None


@dataclass(frozen=True, slots=True)
class OutOfStock:
    """`qty` pieces of the order line wait, whichever parts they were."""

    orderid: str
    sku: str
    qty: int
    part: int = 0


@dataclass(frozen=True, slots=True)
class Allocated:
    """A part of the order line is promised stock; a line that one batch serves is the part 0.

    `waiting` pieces of the line still wait. No `day`: an event of a release that did not have it.
    """

    orderid: str
    sku: str
    qty: int
    batchref: str
    day: Day | None = None
    part: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Reserved:
    """Stock is held for a part of the order line."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    part: int = 0
    waiting: int = 0


@dataclass(frozen=True, slots=True)
class Deallocated:
    """A part of the order line lost its promise; `cancelled`: its own caller gave the line up."""

    orderid: str
    sku: str
    qty: int
    batchref: str | None
    cancelled: bool
    part: int = 0


@dataclass(frozen=True, slots=True)
class Released:
    """Stock is held no more for a part of the order line; not `moved`: the line is given up."""

    orderid: str
    sku: str
    qty: int
    moved: bool
    part: int = 0


@dataclass(frozen=True, slots=True)
class PromiseChanged:
    """`qty` pieces of the order line come on another day than they were promised."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    old: Day
    new: Day
    part: int = 0


@dataclass(frozen=True, slots=True)
class Dispatched:
    """The goods of a part have left."""

    orderid: str
    sku: str
    part: int = 0


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
    name = (text(data, "orderid"), text(data, "sku"))
    part = _count(data, "part")
    match kind:
        case "allocation.out_of_stock":
            return OutOfStock(*name, number(data, "qty"), part)
        case "allocation.promise_changed":
            return PromiseChanged(
                *name,
                number(data, "qty"),
                text(data, "batchref"),
                old=Day(day(data, "old_eta")),
                new=Day(day(data, "new_eta")),
                part=part,
            )
        case "allocation.deallocated":
            return Deallocated(
                *name,
                number(data, "qty"),
                None if data.get("batchref") is None else text(data, "batchref"),
                cancelled=event.causationtype == "allocation.deallocate",
                part=part,
            )
        case "allocation.reservation_released":
            moved = data.get("reason") == "moved"
            return Released(*name, number(data, "qty"), moved, part)
        case "allocation.dispatched":
            return Dispatched(*name, part)
    served = (*name, number(data, "qty"), text(data, "batchref"))
    waiting = _count(data, "waiting")
    known = Day(day(data, "eta")) if "eta" in data else None
    if event.causationtype in REPEATING:
        return None
    if kind == "allocation.reserved":
        return Reserved(*served, part, waiting)
    return Allocated(*served, known, part, waiting)


def _count(data: Mapping[str, Any], name: str) -> int:
    """A number that is absent when it is 0."""
    return number(data, name) if data.get(name) else 0
