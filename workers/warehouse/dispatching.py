"""Dispatches an order's picks, wholly or in part; an event about each goes into the outbox."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import uuid4

from sqlalchemy import Engine, select

from allocation.messaging import cloudevents
from allocation.messaging.resequencer import ReceivedEvents
from workers.warehouse import dispatch_outbox
from workers.warehouse.pick_list import as_pick, save
from workers.warehouse.picks import Pick
from workers.warehouse.tables import metadata, picks


class NothingToDispatch(Exception):
    """Nothing was dispatched; each argument says why, or what happened to one of the picks."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be dispatched of an order: all that is there, or of one sku or batch.

    `qty`: the number of pieces, in the order of the line's parts.
    """

    orderid: str
    sku: str | None = None
    batchref: str | None = None
    qty: int | None = None


@dataclass(frozen=True, slots=True)
class Leaving:
    """Pieces of a pick that leave now; `left` others stay to be picked."""

    orderid: str
    sku: str
    qty: int
    batchref: str
    left: int


def dispatch(
    engine: Engine, wanted: Wanted, now: datetime, traceparent: str | None = None
) -> Sequence[Leaving]:
    """Dispatch pieces of the order's picks whose goods are there, and add the events about them.

    One transaction. Raises NothingToDispatch if no such pick is open, or too few pieces are there.
    """
    asked = picks.c.orderid == wanted.orderid
    if wanted.sku is not None:
        asked &= picks.c.sku == wanted.sku
    if wanted.batchref is not None:
        asked &= picks.c.batchref == wanted.batchref
    with engine.begin() as connection:
        skus = connection.scalars(select(picks.c.sku).where(asked).distinct()).all()
        # Events of these skus wait until the commit, so none of them closes a pick meanwhile.
        ReceivedEvents(connection, metadata).lock(skus)
        query = select(picks).where(asked).order_by(picks.c.sku, picks.c.opened_sequence)
        known = [as_pick(row) for row in connection.execute(query)]
        due = [pick for pick in known if pick.is_due]
        if not due:
            raise NothingToDispatch(*_why(known, wanted))
        leaving = _take(due, wanted)
        save(connection, due, now)
        dispatch_outbox.add(connection, [_event(each, now) for each in leaving], now, traceparent)
    return leaving


def _take(due: Sequence[Pick], wanted: Wanted) -> list[Leaving]:
    """Dispatch the wanted quantity of the picks, or all of them."""
    most = sum(pick.left for pick in due)
    if wanted.qty is not None:
        skus = {pick.sku for pick in due}
        if len(skus) > 1:
            raise NothingToDispatch(
                f"The order {wanted.orderid} has open picks of several skus:"
                f" {', '.join(sorted(skus))}. Give the sku, too."
            )
        if wanted.qty > most:
            raise NothingToDispatch(
                f"Only {most} x {due[0].sku} can be picked for the order {wanted.orderid} now."
            )
    rest = most if wanted.qty is None else wanted.qty
    leaving = []
    for pick in sorted(due, key=lambda pick: (pick.sku, pick.part)):
        if pieces := min(pick.left, rest):
            rest -= pieces
            left = pick.left - pieces
            pick.gone += pieces
            leaving.append(Leaving(pick.orderid, pick.sku, pieces, pick.batchref, left))
    return leaving


def _why(known: Sequence[Pick], wanted: Wanted) -> list[str]:
    if not known:
        of_sku = "" if wanted.sku is None else f" and the sku {wanted.sku}"
        of_batch = "" if wanted.batchref is None else f" and the batch {wanted.batchref}"
        return [f"The pick list has no pick for the order {wanted.orderid}{of_sku}{of_batch}."]
    newest = {pick.sku: pick for pick in known}
    return [
        f"The pick of {pick.qty} x {pick.sku} for the order {pick.orderid} {_what_happened(pick)}."
        for pick in known
        if pick.dispatched or pick.is_open or pick is newest[pick.sku]
    ]


def _what_happened(pick: Pick) -> str:
    if pick.dispatched:
        return "was already dispatched"
    return f"is expected on {pick.eta}" if pick.is_open else "was cancelled"


def _event(leaving: Leaving, now: datetime) -> cloudevents.Json:
    event_id = str(uuid4())
    return cloudevents.build(
        id=event_id,
        source="warehouse",
        type="warehouse.dispatched.v1",
        subject=leaving.sku,
        time=now.isoformat(timespec="microseconds"),
        data={
            "orderid": leaving.orderid,
            "sku": leaving.sku,
            "qty": leaving.qty,
            "batchref": leaving.batchref,
        },
        correlationid=event_id,  # the event begins a correlation of its own
    )
