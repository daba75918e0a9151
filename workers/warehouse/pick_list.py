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
    opened = None
    if isinstance(message, Allocated):
        opened = open_pick(known, message, event.sequence)
    else:
        cancel_pick(known, message, event.sequence)
    now = datetime.now(UTC)
    for pick, was in zip(known, before, strict=True):
        if asdict(pick) != was:
            connection.execute(
                update(picks)
                .where(columns.sku == pick.sku, columns.opened_sequence == pick.opened)
                .values(status="cancelled", closed_sequence=pick.closed, closed_at=now)
            )
    if opened:
        connection.execute(
            insert(picks).values(
                sku=opened.sku,
                opened_sequence=opened.opened,
                orderid=opened.orderid,
                qty=opened.qty,
                batchref=opened.batchref,
                status="open",
                opened_at=now,
            )
        )
    log.info(
        "pick list",
        orderid=message.orderid,
        batchref=message.batchref,
        opened=bool(opened),
        late=late,
    )


def listed(engine: Engine, orderid: str | None = None) -> Sequence[dict[str, Any]]:
    """The picks, of one order or all, in the order in which they were opened."""
    query = select(picks).order_by(picks.c.opened_at, picks.c.sku, picks.c.opened_sequence)
    if orderid is not None:
        query = query.where(picks.c.orderid == orderid)
    names = ("orderid", "sku", "qty", "batchref", "status", "opened_sequence", "closed_sequence")
    with engine.connect() as connection:
        return [{name: getattr(row, name) for name in names} for row in connection.execute(query)]
