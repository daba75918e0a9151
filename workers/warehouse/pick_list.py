"""The pick list in the warehouse's database; `picks` has its rules."""

from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Row, bindparam, insert, select, update

from allocation.messaging.resequencer import Due
from workers.order_lines import rows_of
from workers.warehouse.messages import Allocated, Deallocated, Dispatched, Message, parse
from workers.warehouse.picks import (
    Pick,
    cancel_pick,
    dispatch_pick,
    dispatched_pick,
    open_pick,
)
from workers.warehouse.tables import picks

log = structlog.get_logger(__name__)

_STORED = select(picks)
_ADD = insert(picks)


def apply(connection: Connection, due: Sequence[Due]) -> None:
    """Open, cancel and dispatch picks as the events say, in the caller's transaction."""
    parsed = [(each, message) for each in due if (message := parse(each.event)) is not None]
    if not parsed:
        return
    lines = _lines(connection, [message for _, message in parsed])
    open_before = [pick for line in lines.values() for pick in line if pick.is_open]
    added = []
    for each, message in parsed:
        line = lines[message.orderid, message.sku, message.part]
        if gone := dispatched_pick(line):
            if not isinstance(message, Dispatched):
                _warn(each, message, gone)
            continue
        if isinstance(message, Dispatched):
            pick = dispatch_pick(line, message, each.event.sequence)
        elif isinstance(message, Allocated):
            pick = open_pick(line, message, each.event.sequence)
        else:
            pick = cancel_pick(line, message, each.event.sequence)
        if pick:
            line.append(pick)
            added.append(pick)
        log.info(
            "pick list",
            batchref=message.batchref,
            opened=pick is not None and pick.is_open,
            late=each.late,
            **each.event.log_fields(),
        )
    now = datetime.now(UTC)
    _close(connection, [pick for pick in open_before if not pick.is_open], now)
    _add(connection, added, now)


def _warn(each: Due, message: Allocated | Deallocated, gone: Pick) -> None:
    """Warn if the event was published after the goods were dispatched."""
    if each.event.sequence < gone.opened:
        return
    log.warning(
        "a line was allocated again after its goods were dispatched: nothing more is picked"
        if isinstance(message, Allocated)
        else "a line was cancelled after its goods were dispatched: the pick stays dispatched",
        batchref=message.batchref,
        dispatched_batchref=gone.batchref,
        **each.event.log_fields(),
    )


def _lines(
    connection: Connection, messages: Sequence[Message]
) -> dict[tuple[str, str, int], list[Pick]]:
    """The stored picks of at least the order lines that the messages are about."""
    lines: defaultdict[tuple[str, str, int], list[Pick]] = defaultdict(list)
    keys = {(message.orderid, message.sku) for message in messages}
    for row in rows_of(connection, _STORED, keys):
        lines[row.orderid, row.sku, row.part].append(as_pick(row))
    return lines


def as_pick(row: Row[Any]) -> Pick:
    return Pick(
        row.orderid,
        row.sku,
        row.qty,
        row.batchref,
        row.opened_sequence,
        row.closed_sequence,
        dispatched=row.status == "dispatched",
        part=row.part,
    )


def _close(connection: Connection, closed: Sequence[Pick], now: datetime) -> None:
    if not closed:
        return
    connection.execute(
        update(picks)
        .where(picks.c.sku == bindparam("of"), picks.c.opened_sequence == bindparam("opened"))
        .values(status=bindparam("to"), closed_sequence=bindparam("closed"), closed_at=now),
        [
            {"of": pick.sku, "opened": pick.opened, "closed": pick.closed, "to": pick.status}
            for pick in closed
        ],
    )


def _add(connection: Connection, added: Sequence[Pick], now: datetime) -> None:
    if not added:
        return
    connection.execute(
        _ADD,
        [
            {
                "sku": pick.sku,
                "opened_sequence": pick.opened,
                "orderid": pick.orderid,
                "qty": pick.qty,
                "batchref": pick.batchref,
                "part": pick.part,
                "status": pick.status,
                "opened_at": now,
                "closed_sequence": pick.closed,
                "closed_at": None if pick.is_open else now,
            }
            for pick in added
        ],
    )


def listed(engine: Engine, orderid: str | None = None) -> Sequence[dict[str, Any]]:
    """The picks of one order, or all, in the order in which they were opened."""
    query = select(picks).order_by(picks.c.opened_at, picks.c.sku, picks.c.opened_sequence)
    if orderid is not None:
        query = query.where(picks.c.orderid == orderid)
    names = (
        *("orderid", "sku", "part", "qty", "batchref", "status"),
        *("opened_sequence", "closed_sequence"),
    )
    with engine.connect() as connection:
        return [{name: getattr(row, name) for name in names} for row in connection.execute(query)]
