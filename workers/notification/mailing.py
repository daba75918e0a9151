"""Decides which mails an event leads to, and writes them as rows in the event's transaction.

`mail_texts` has what they say; `sender` sends them after the commit.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid5

import structlog
from sqlalchemy import Connection, bindparam, select, update

from allocation.messaging.cloudevents import Envelope
from allocation.messaging.database import insert_into
from allocation.messaging.resequencer import Due
from workers.notification import ledger as ledgers
from workers.notification import mail_texts
from workers.notification.ledger import Entry, Ledger
from workers.notification.messages import (
    Allocated,
    Blocked,
    Deallocated,
    Dispatched,
    Expired,
    LineMessage,
    OutOfStock,
    Overdue,
    PromiseChanged,
    Released,
    Reserved,
    Resized,
    Returned,
    StockMessage,
    parse,
)
from workers.notification.tables import mails
from workers.order_lines import LineKey, rows_of

log = structlog.get_logger(__name__)

_STORED = select(
    mails.c.event_id, mails.c.orderid, mails.c.sku, mails.c.part, mails.c.sequence, mails.c.team
)


def apply(connection: Connection, due: Sequence[Due]) -> None:
    """Write the mails about the events, and which pieces have no batch."""
    messages = ((each, each.event.parsed(parse)) for each in due)
    parsed = [(each, message) for each, message in messages if message is not None]
    if not parsed:
        return
    of_lines = [message for _, message in parsed if isinstance(message, LineMessage)]
    lines = {_line(message) for message in of_lines}
    before = ledgers.read(connection, lines)
    after = {line: Ledger(before.get(line, ())) for line in lines}
    drafts = Drafts(
        connection, {_line(message) for message in of_lines if isinstance(message, PromiseChanged)}
    )
    for each, message in parsed:
        if isinstance(message, StockMessage):
            orderid = message.orderid if isinstance(message, Returned) else None
            drafts.add(each.event, (orderid, message.sku), None, _mails_about_stock(message))
        else:
            line = _line(message)
            drafts.add(each.event, line, message.part, _mails(after[line], drafts, each, message))
    ledgers.save(connection, before, after)
    drafts.save()


def _line(message: LineMessage) -> LineKey:
    return (message.orderid, message.sku)


def _mails_about_stock(message: StockMessage) -> list[mail_texts.Mail]:
    match message:
        case Expired():
            return [mail_texts.expired(message)] if message.qty else []
        case Overdue():
            return [mail_texts.overdue(message)]
        case Blocked():
            return [mail_texts.blocked(message)]
        case Returned():
            return [mail_texts.returned(message)]


def _mails(
    ledger: Ledger, drafts: "Drafts", each: Due, message: LineMessage
) -> list[mail_texts.Mail]:
    """Update the ledger by the event; the mails that the event leads to."""
    sequence = each.event.sequence
    match message:
        case OutOfStock():
            if not each.late:
                ledger.wait(message.part, message.qty, sequence)
            return [mail_texts.out_of_stock(message)]
        case Allocated():
            return _served(ledger, each, message)
        case Reserved():
            ledger.serve(message.part, message.batchref, message.qty, message.waiting, sequence)
        case PromiseChanged():
            return _changed_promise(ledger, drafts, each, message)
        case Dispatched():
            ledger.forget(sequence, message.part)
        case Resized():
            ledger.resize(message.qty - message.old_qty, sequence)
        case Deallocated(batchref=str(), cancelled=False) | Released(moved=True):
            _left(ledger, each, message)
        case _:
            ledger.forget(sequence)  # the whole line is given up
    return []


def _left(ledger: Ledger, each: Due, message: Deallocated | Released) -> None:
    """Note the pieces that had to leave their batch; moves of reserved pieces are not mailed."""
    sequence = each.event.sequence
    batchref = message.batchref if isinstance(message, Deallocated) else None
    if each.late:
        # Later events have been processed already; a mail about an old move would only confuse.
        ledger.forget(sequence, message.part)
        log.warning(
            "a deallocation arrived too late: its move is not mailed", **each.event.log_fields()
        )
    else:
        ledger.leave(Entry(message.part, batchref, message.qty, sequence))


def _served(ledger: Ledger, each: Due, message: Allocated) -> list[mail_texts.Mail]:
    """The mails about pieces that moved, and about those that still wait beside them."""
    part, waiting = message.part, message.waiting
    served = ledger.serve(part, message.batchref, message.qty, waiting, each.event.sequence)
    # For a late event it is not known whether those pieces still wait.
    waiting = 0 if each.late else waiting
    found = [mail_texts.moved(message, served.moved, waiting)] if served.moved else []
    if waiting and served.waited:
        found.append(mail_texts.still_out_of_stock(message, served.waited))
    return found


def _changed_promise(
    ledger: Ledger, drafts: "Drafts", each: Due, message: PromiseChanged
) -> list[mail_texts.Mail]:
    """The mail about another day; none if the mail about the move can say it."""
    line, part, sequence = _line(message), message.part, each.event.sequence
    # No event has said yet where these pieces went; one that does so now is late.
    own = ledger.pull(part, sequence)
    # A part that moves to another day has two events in a row: the first names the batch, the
    # second the day.
    if drafts.has_mail_to_orders(line, part, sequence - 1):
        drafts.append(line, sequence - 1, mail_texts.old_day(message))
        return []
    if ledger.left_since(part, sequence) or drafts.has_newer(line, sequence):
        log.warning(
            "a new day arrived too late: newer facts were mailed already", **each.event.log_fields()
        )
        return []
    left = {
        entry.batchref: message.qty if entry.qty is None else min(entry.qty, message.qty)
        for entry in own
        if entry.batchref is not None and entry.batchref != message.batchref
    }
    return [mail_texts.promise_changed(message, left)]


@dataclass(frozen=True, slots=True)
class _Known:
    id: UUID
    sequence: int
    team: str
    part: int | None


class Drafts:
    """The mails that one transaction adds; a mail is known by its line and its event's sequence."""

    def __init__(self, connection: Connection, lines: Collection[LineKey]) -> None:
        """The stored mails of these lines are known, too."""
        self._connection = connection
        self._new: dict[UUID, dict[str, Any]] = {}
        self._appended: list[tuple[UUID, str]] = []
        self._known: defaultdict[LineKey, list[_Known]] = defaultdict(list)
        for row in rows_of(connection, _STORED, lines) if lines else ():
            known = _Known(row.event_id, row.sequence, row.team, row.part)
            self._known[row.orderid, row.sku].append(known)

    def has_mail_to_orders(self, line: LineKey, part: int, sequence: int) -> bool:
        """Whether the event of this sequence led to a mail to the orders team about the part."""
        mail = self._to_orders(line, sequence)
        return mail is not None and mail.part in (part, None)

    def has_newer(self, line: LineKey, sequence: int) -> bool:
        """Whether a later event led to a mail about the line."""
        return any(known.sequence > sequence for known in self._known[line])

    def add(
        self,
        event: Envelope,
        line: tuple[str | None, str],
        part: int | None,
        new: Sequence[mail_texts.Mail],
    ) -> None:
        """Add the mails about the event, two at most; adding them again has no effect.

        A mail about a batch has no order, and one about the stock no part of a line.

        The first has the event's id, the second an id derived from it: mail programs deduplicate by
        these.
        """
        for mail in new:
            mail_id = event.id if mail is new[0] else uuid5(event.id, mail.team)
            now = datetime.now(UTC)  # one per mail: mails are sent in the order of their time
            self._new[mail_id] = {
                "event_id": mail_id,
                "orderid": line[0],
                "sku": line[1],
                "part": part,
                "sequence": event.sequence,
                "trace_id": event.trace_id,
                "team": mail.team,
                "subject": mail.subject,
                "text": mail.text,
                "status": "pending",
                "tries": 0,
                "not_before": now,
                "created_at": now,
            }
            if (orderid := line[0]) is not None:
                known = _Known(mail_id, event.sequence, mail.team, part)
                self._known[orderid, line[1]].append(known)

    def append(self, line: LineKey, sequence: int, text: str) -> None:
        """Append text to a mail to the orders team, unless its sending has begun."""
        known = self._to_orders(line, sequence)
        assert known is not None, f"no mail of {line} was added for {sequence}"
        if row := self._new.get(known.id):
            row["text"] += text
        else:
            self._appended.append((known.id, text))

    def save(self) -> None:
        """Write the mails and the appended text."""
        if self._appended:
            # A retried mail has to be the same, as its Message-ID is the same.
            self._connection.execute(
                update(mails)
                .where(
                    mails.c.event_id == bindparam("id"),
                    mails.c.status == "pending",
                    mails.c.tries == 0,
                )
                .values(text=mails.c.text + bindparam("more")),
                [{"id": event_id, "more": text} for event_id, text in self._appended],
            )
        if self._new:
            insert = insert_into(mails, self._connection.dialect.name)
            self._connection.execute(
                insert.on_conflict_do_nothing(index_elements=["event_id"]),
                list(self._new.values()),
            )

    def _to_orders(self, line: LineKey, sequence: int) -> _Known | None:
        for known in self._known[line]:
            if known.sequence == sequence and known.team == "orders":
                return known
        return None
