"""Dispatches an order: its picks are closed, and an event about each goes into the outbox."""

from collections.abc import Sequence
from datetime import datetime
from uuid import uuid4

from sqlalchemy import Engine, bindparam, select, update

from allocation.messaging import cloudevents
from allocation.messaging.resequencer import ReceivedEvents
from workers.warehouse import dispatch_outbox
from workers.warehouse.pick_list import as_pick
from workers.warehouse.picks import Pick
from workers.warehouse.tables import metadata, picks


class NothingToDispatch(Exception):
    """None of the order's picks is open; each argument says what happened to one of them."""


def dispatch(
    engine: Engine, orderid: str, sku: str | None, now: datetime, traceparent: str | None = None
) -> Sequence[Pick]:
    """Mark the order's open picks as dispatched, of one sku or all, and add their events.

    One transaction. Returns the picks; raises NothingToDispatch if none is open.
    """
    asked = picks.c.orderid == orderid
    if sku is not None:
        asked &= picks.c.sku == sku
    with engine.begin() as connection:
        skus = connection.scalars(select(picks.c.sku).where(asked).distinct()).all()
        # Events of these skus wait until the commit, so none of them closes a pick meanwhile.
        ReceivedEvents(connection, metadata).lock(skus)
        query = select(picks).where(asked).order_by(picks.c.sku, picks.c.opened_sequence)
        known = [as_pick(row) for row in connection.execute(query)]
        leaving = [pick for pick in known if pick.is_open]
        if not leaving:
            raise NothingToDispatch(*_why(known, orderid, sku))
        connection.execute(
            update(picks)
            .where(picks.c.sku == bindparam("of"), picks.c.opened_sequence == bindparam("opened"))
            .values(status="dispatched", closed_at=now),
            [{"of": pick.sku, "opened": pick.opened} for pick in leaving],
        )
        dispatch_outbox.add(connection, [_event(pick, now) for pick in leaving], now, traceparent)
    return leaving


def _why(known: Sequence[Pick], orderid: str, sku: str | None) -> list[str]:
    if not known:
        of_sku = "" if sku is None else f" and the sku {sku}"
        return [f"The pick list has no pick for the order {orderid}{of_sku}."]
    newest = {pick.sku: pick for pick in known}
    return [
        f"The pick of {pick.qty} x {pick.sku} for the order {orderid} "
        + ("was already dispatched." if pick.dispatched else "was cancelled.")
        for pick in known
        if pick.dispatched or pick is newest[pick.sku]
    ]


def _event(pick: Pick, now: datetime) -> cloudevents.Json:
    event_id = str(uuid4())
    return cloudevents.build(
        id=event_id,
        source="warehouse",
        type="warehouse.dispatched.v1",
        subject=pick.sku,
        time=now.isoformat(timespec="microseconds"),
        data={
            "orderid": pick.orderid,
            "sku": pick.sku,
            "qty": pick.qty,
            "batchref": pick.batchref,
        },
        correlationid=event_id,  # the event begins a correlation of its own
    )
