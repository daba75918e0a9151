"""Which mails an event leads to: rows of the event's own transaction, sent after it."""

from datetime import UTC, datetime

import structlog
from sqlalchemy import Connection, delete, select

from workers.database import insert
from workers.envelope import Envelope
from workers.notification import rules
from workers.notification.messages import Allocated, Deallocated, OutOfStock, parse
from workers.notification.tables import mails, moving

log = structlog.get_logger(__name__)


def apply(connection: Connection, event: Envelope, late: bool) -> None:
    """Note the mail that the event leads to, and which lines are on the move."""
    message = parse(event)
    if isinstance(message, OutOfStock):
        _note(connection, event, rules.out_of_stock(message))
    elif isinstance(message, Allocated):
        left = _forget(connection, message, event.sequence)
        if mail := rules.allocated(message, left):
            _note(connection, event, mail)
    elif isinstance(message, Deallocated):
        _forget(connection, message, event.sequence)
        if late:
            # Where the line went since then has passed by; an old move would only confuse.
            log.warning("a deallocation came too late: no move is mailed for it")
        elif message.batchref is not None and not message.cancelled:
            connection.execute(
                insert(connection, moving).values(
                    orderid=message.orderid,
                    sku=message.sku,
                    batchref=message.batchref,
                    sequence=event.sequence,
                )
            )


def _forget(connection: Connection, message: Allocated | Deallocated, sequence: int) -> str | None:
    """The batch that the line had to leave before, if it was on the move; it is not any more."""
    this_line = (
        moving.c.orderid == message.orderid,
        moving.c.sku == message.sku,
        moving.c.sequence < sequence,
    )
    left = connection.scalar(select(moving.c.batchref).where(*this_line))
    connection.execute(delete(moving).where(*this_line))
    return left


def _note(connection: Connection, event: Envelope, mail: rules.Mail) -> None:
    now = datetime.now(UTC)
    connection.execute(
        insert(connection, mails)
        .values(
            event_id=event.id,
            team=mail.team,
            subject=mail.subject,
            text=mail.text,
            status="pending",
            tries=0,
            not_before=now,
            created_at=now,
        )
        .on_conflict_do_nothing(index_elements=["event_id"])
    )
