"""The pick list in the warehouse's database."""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, insert, select, update

from workers.envelope import Envelope
from workers.warehouse.messages import Allocated, parse
from workers.warehouse.rules import Pick, cancel_pick, open_pick
from workers.warehouse.tables import picks

log = structlog.get_logger(__name__)


def apply(connection: Connection, event: Envelope, late: bool) -> None:
    """Do to the pick list what the event asks for, in the caller's transaction."""
    message = parse(event)
    if message is None:
        return
    columns = picks.c
    this_line = (columns.orderid == message.orderid, columns.sku == message.sku)
    known = [
        Pick(row.orderid, row.sku, row.qty, row.batchref, row.opened_sequence, row.closed_sequence)
        for row in connection.execute(select(picks).where(*this_line))
    ]
    before = [asdict(pick) for pick in known]
    if isinstance(message, Allocated):
        added = open_pick(known, message, event.sequence)
    else:
        added = cancel_pick(known, message, event.sequence)
    now = datetime.now(UTC)
    for pick, was in zip(known, before, strict=True):
        if asdict(pick) != was:
            connection.execute(
                update(picks)
                .where(columns.sku == pick.sku, columns.opened_sequence == pick.opened)
                .values(status="cancelled", closed_sequence=pick.closed, closed_at=now)
            )
    if added:
        connection.execute(
            insert(picks).values(
                sku=added.sku,
                opened_sequence=added.opened,
                orderid=added.orderid,
                qty=added.qty,
                batchref=added.batchref,
                status="open" if added.closed is None else "cancelled",
                opened_at=now,
                closed_sequence=added.closed,
                closed_at=None if added.closed is None else now,
            )
        )
    opened = added is not None and added.closed is None
    log.info("pick list", batchref=message.batchref, opened=opened, late=late)


def listed(engine: Engine, orderid: str | None = None) -> Sequence[dict[str, Any]]:
    """The picks, of one order or all, in the order in which they were opened."""
    query = select(picks).order_by(picks.c.opened_at, picks.c.sku, picks.c.opened_sequence)
    if orderid is not None:
        query = query.where(picks.c.orderid == orderid)
    names = ("orderid", "sku", "qty", "batchref", "status", "opened_sequence", "closed_sequence")
    with engine.connect() as connection:
        return [{name: getattr(row, name) for name in names} for row in connection.execute(query)]
