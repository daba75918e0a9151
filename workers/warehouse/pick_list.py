"""The pick list in the warehouse's database; `picks` has its rules."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy import (
    Connection,
    DateTime,
    Engine,
    Row,
    bindparam,
    func,
    select,
    update,
)

from allocation.messaging.resequencer import Due
from allocation.messaging.statements import Writes
from workers.order_lines import rows_of
from workers.warehouse.messages import (
    Allocated,
    Deallocated,
    Dispatched,
    Message,
    PromiseChanged,
    parse,
)
from workers.warehouse.picks import (
    Pick,
    cancel_pick,
    change_day,
    confirm_dispatch,
    dispatched_pick,
    open_pick,
)
from workers.warehouse.tables import picks

log = structlog.get_logger(__name__)

_STORED = select(picks)


def apply(connection: Connection, due: Sequence[Due]) -> None:
    """Open, cancel and dispatch picks as the events say, in the caller's transaction."""
    messages = ((each, each.event.parsed(parse)) for each in due)
    parsed = [(each, message) for each, message in messages if message is not None]
    if not parsed:
        return
    lines = _lines(connection, [message for _, message in parsed])
    before = [(pick, replace(pick)) for line in lines.values() for pick in line]
    added = []
    changes = []
    for each, message in parsed:
        line = lines[message.orderid, message.sku, message.part]
        if gone := dispatched_pick(line):
            if isinstance(message, (Allocated, Deallocated)):
                _warn(each, message, gone)
            continue
        if pick := _apply_one(line, each, message):
            line.append(pick)
            added.append(pick)
        changes.append((each, message, pick))
    now = datetime.now(UTC)
    save(connection, [pick for pick, old in before if pick != old], now)
    _add(connection, added, now)
    _log(changes)


def _log(changes: Sequence[tuple[Due, Message, Pick | None]]) -> None:
    """Write one line about the applied events: a line for each would cost more than its event."""
    opened = [pick is not None and pick.is_open for _, _, pick in changes]
    if len(changes) == 1:
        [(each, message, _)] = changes
        log.info(
            "pick list",
            batchref=message.batchref,
            opened=opened[0],
            late=each.late,
            **each.event.log_fields(),
        )
    elif changes:
        orderids = list(dict.fromkeys(message.orderid for _, message, _ in changes))
        log.info("pick list", events=len(changes), opened=sum(opened), orderids=orderids)


def _apply_one(line: Sequence[Pick], each: Due, message: Message) -> Pick | None:
    """Change the line's picks as the event says; returns the pick that it adds."""
    sequence = each.event.sequence
    match message:
        case Allocated():
            # The event that changed the day of a late one may have been applied before it.
            return open_pick(line, replace(message, eta=None) if each.late else message, sequence)
        case Dispatched():
            return confirm_dispatch(line, message, sequence)
        case PromiseChanged():
            change_day(line, message, sequence)
            return None
    were_open = [pick for pick in line if pick.is_open]
    noted = cancel_pick(line, message, sequence)
    for pick in were_open:
        if not pick.is_open and pick.gone > pick.confirmed:
            log.warning(
                "a line was cancelled after some of its goods were dispatched: these stay"
                " dispatched",
                batchref=message.batchref,
                dispatched=pick.gone,
                **each.event.log_fields(),
            )
    return noted


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
        part=row.part,
        eta=row.eta,
        eta_sequence=row.eta_sequence,
        # The previous release writes the status alone.
        gone=row.qty if row.status == "dispatched" else row.dispatched_qty,
        confirmed=row.confirmed_qty,
    )


def save(connection: Connection, changed: Sequence[Pick], now: datetime) -> None:
    """Update the stored picks."""
    if not changed:
        return
    closed_at = func.coalesce(picks.c.closed_at, bindparam("at", type_=DateTime(timezone=True)))
    connection.execute(
        update(picks)
        .where(picks.c.sku == bindparam("of"), picks.c.opened_sequence == bindparam("opened"))
        .values(
            status=bindparam("to"),
            closed_sequence=bindparam("closed"),
            closed_at=closed_at,
            eta=bindparam("day"),
            eta_sequence=bindparam("day_sequence"),
            dispatched_qty=bindparam("gone"),
            confirmed_qty=bindparam("confirmed"),
        ),
        [
            {
                "of": pick.sku,
                "opened": pick.opened,
                "to": _stored_status(pick),
                "closed": pick.closed,
                "at": None if pick.is_open else now,
                "day": pick.eta,
                "day_sequence": pick.eta_sequence,
                "gone": pick.gone,
                "confirmed": pick.confirmed,
            }
            for pick in changed
        ],
    )


def _add(connection: Connection, added: Sequence[Pick], now: datetime) -> None:
    writes = Writes(connection)
    writes.add(
        picks,
        [
            {
                "sku": pick.sku,
                "opened_sequence": pick.opened,
                "orderid": pick.orderid,
                "qty": pick.qty,
                "batchref": pick.batchref,
                "part": pick.part,
                "status": _stored_status(pick),
                "eta": pick.eta,
                "eta_sequence": pick.eta_sequence,
                "dispatched_qty": pick.gone,
                "confirmed_qty": pick.confirmed,
                "opened_at": now,
                "closed_sequence": pick.closed,
                "closed_at": None if pick.is_open else now,
            }
            for pick in added
        ],
    )
    writes.send()


def _stored_status(pick: Pick) -> str:
    """A pick is stored as open also before its goods arrive: its day says that."""
    return "open" if pick.is_open else pick.status


def listed(engine: Engine, orderid: str | None = None) -> Sequence[dict[str, Any]]:
    """The picks of one order, or all, in the order in which they were opened."""
    query = select(picks).order_by(picks.c.opened_at, picks.c.sku, picks.c.opened_sequence)
    if orderid is not None:
        query = query.where(picks.c.orderid == orderid)
    with engine.connect() as connection:
        return [_shown(as_pick(row)) for row in connection.execute(query)]


def _shown(pick: Pick) -> dict[str, Any]:
    return {
        "orderid": pick.orderid,
        "sku": pick.sku,
        "part": pick.part,
        "qty": pick.qty,
        "dispatched_qty": pick.gone,
        "batchref": pick.batchref,
        "eta": pick.eta.isoformat() if pick.eta else None,
        "status": pick.status,
        "opened_sequence": pick.opened,
        "closed_sequence": pick.closed,
    }
