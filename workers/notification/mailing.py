"""Writes the mails about events as rows, in the transaction of the events; sent after it."""

from collections.abc import Sequence

import structlog
from sqlalchemy import Connection

from allocation.messaging.resequencer import Due
from allocation.messaging.telemetry import event_fields
from workers.notification import moves, rules
from workers.notification.drafts import Drafts
from workers.notification.ledger import Entry, Ledger
from workers.notification.messages import (
    Allocated,
    Deallocated,
    Dispatched,
    Message,
    OutOfStock,
    PromiseChanged,
    Released,
    Reserved,
    parse,
)
from workers.notification.moves import Line

log = structlog.get_logger(__name__)


def apply(connection: Connection, due: Sequence[Due]) -> None:
    """Write the mails about the events, and which pieces have no batch."""
    asked = [(each, message) for each in due if (message := parse(each.event)) is not None]
    if not asked:
        return
    lines = {_line(message) for _, message in asked}
    before = moves.read(connection, lines)
    ledgers = {line: Ledger(before.get(line, ())) for line in lines}
    drafts = Drafts(
        connection,
        {_line(message) for _, message in asked if isinstance(message, PromiseChanged)},
    )
    for each, message in asked:
        line = _line(message)
        mails = _follow(ledgers[line], drafts, each, message)
        drafts.note(each.event, line, message.part, mails)
    moves.save(connection, before, ledgers)
    drafts.save()


def _line(message: Message) -> Line:
    return (message.orderid, message.sku)


def _follow(ledger: Ledger, drafts: Drafts, each: Due, message: Message) -> list[rules.Mail]:
    sequence = each.event.sequence
    match message:
        case OutOfStock():
            if not each.late:
                ledger.wait(message.part, message.qty, sequence)
            return [rules.out_of_stock(message)]
        case Allocated():
            return _served(ledger, each, message)
        case Reserved():
            ledger.serve(message.part, message.batchref, message.qty, message.waiting, sequence)
        case PromiseChanged():
            return _changed_promise(ledger, drafts, each, message)
        case Dispatched():
            ledger.forget(sequence, message.part)
        case Deallocated(batchref=str(), cancelled=False) | Released(moved=True):
            _left(ledger, each, message)
        case _:
            ledger.forget(sequence)  # the whole line is given up
    return []


def _left(ledger: Ledger, each: Due, message: Deallocated | Released) -> None:
    """Note the pieces that had to leave their batch; moves of held pieces are not mailed."""
    sequence = each.event.sequence
    batchref = message.batchref if isinstance(message, Deallocated) else None
    if each.late:
        # Later events have been processed already; a mail about an old move would only confuse.
        ledger.forget(sequence, message.part)
        log.warning(
            "a deallocation came too late: no move is mailed for it",
            **event_fields.names(each.event),
        )
    else:
        ledger.leave(Entry(message.part, batchref, message.qty, sequence))


def _served(ledger: Ledger, each: Due, message: Allocated) -> list[rules.Mail]:
    """The mails about pieces that moved, and about those that still wait beside them."""
    part, waiting = message.part, message.waiting
    served = ledger.serve(part, message.batchref, message.qty, waiting, each.event.sequence)
    # For a late event it is not known whether those pieces still wait.
    waiting = 0 if each.late else waiting
    mails = [rules.moved(message, served.moved, waiting)] if served.moved else []
    if waiting and served.waited:
        mails.append(rules.still_out_of_stock(message, served.waited))
    return mails


def _changed_promise(
    ledger: Ledger, drafts: Drafts, each: Due, message: PromiseChanged
) -> list[rules.Mail]:
    """The mail about another day; none where the one about the move can tell it."""
    line, part, sequence = _line(message), message.part, each.event.sequence
    # No event has said yet where these pieces went; one that does now comes too late.
    own = ledger.pull(part, sequence)
    # A part that moves to another day has two events in a row: the first names the batch, the
    # second the day.
    if drafts.tells_orders(line, part, sequence - 1):
        drafts.add(line, sequence - 1, rules.old_day(message))
        return []
    if ledger.left_since(part, sequence) or drafts.has_newer(line, sequence):
        log.warning(
            "another day was told too late: newer things were mailed",
            **event_fields.names(each.event),
        )
        return []
    left = {
        entry.batchref: message.qty if entry.qty is None else min(entry.qty, message.qty)
        for entry in own
        if entry.batchref is not None and entry.batchref != message.batchref
    }
    return [rules.promise_changed(message, left)]
