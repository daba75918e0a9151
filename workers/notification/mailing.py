"""Which mails events lead to: rows of the events' own transaction, sent after it."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from typing import Any

import structlog
from sqlalchemy import Connection, Select, bindparam, delete, select

from workers import logs
from workers.database import among, insert_into
from workers.envelope import Envelope
from workers.notification import rules
from workers.notification.messages import Allocated, Message, OutOfStock, parse
from workers.notification.tables import mails, moving
from workers.turns import Due

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Left:
    """The batch that a line had to leave, and the event that told it."""

    batchref: str
    sequence: int


Moving = dict[tuple[str, str], Left]
"""The lines that are on the move, by orderid and sku."""


def apply(connection: Connection, due: Sequence[Due]) -> None:
    """Note the mails that the events lead to, and which lines are on the move."""
    asked = [(each, message) for each in due if (message := parse(each.event)) is not None]
    if not asked:
        return
    before = _moving(connection, [message for _, message in asked])
    after = dict(before)
    noted = []
    for each, message in asked:
        if mail := _follow(after, each, message):
            noted.append((each.event, mail))
    _move(connection, before, after)
    _note(connection, noted)


def _follow(moving: Moving, each: Due, message: Message) -> rules.Mail | None:
    if isinstance(message, OutOfStock):
        return rules.out_of_stock(message)
    line = (message.orderid, message.sku)
    left = moving.get(line)
    if left is not None and left.sequence < each.event.sequence:
        del moving[line]
    else:
        left = None
    if isinstance(message, Allocated):
        return rules.allocated(message, left.batchref if left else None)
    if each.late:
        # Where the line went since then has passed by; an old move would only confuse.
        log.warning(
            "a deallocation came too late: no move is mailed for it", **logs.names(each.event)
        )
    elif message.batchref is not None and not message.cancelled:
        moving[line] = Left(message.batchref, each.event.sequence)
    return None


def _moving(connection: Connection, messages: Sequence[Message]) -> Moving:
    """Of at least the lines that the messages are about."""
    rows = connection.execute(
        _asked(connection.dialect.name),
        {
            "orderids": list({message.orderid for message in messages}),
            "skus": list({message.sku for message in messages}),
        },
    )
    return {(row.orderid, row.sku): Left(row.batchref, row.sequence) for row in rows}


@cache
def _asked(dialect: str) -> Select[Any]:
    columns = moving.c
    return select(moving).where(
        among(columns.orderid, "orderids", dialect), among(columns.sku, "skus", dialect)
    )


def _move(connection: Connection, before: Moving, after: Moving) -> None:
    columns = moving.c
    gone = [line for line in before if after.get(line) != before[line]]
    come = [line for line in after if after[line] != before.get(line)]
    if gone:
        connection.execute(
            delete(moving).where(
                columns.orderid == bindparam("order"), columns.sku == bindparam("of")
            ),
            [{"order": orderid, "of": sku} for orderid, sku in gone],
        )
    if come:
        connection.execute(
            insert_into(moving, connection.dialect.name),
            [
                {
                    "orderid": line[0],
                    "sku": line[1],
                    "batchref": after[line].batchref,
                    "sequence": after[line].sequence,
                }
                for line in come
            ],
        )


def _note(connection: Connection, noted: Sequence[tuple[Envelope, rules.Mail]]) -> None:
    if not noted:
        return
    rows = []
    for event, mail in noted:
        now = datetime.now(UTC)  # each its own: mails are sent in the order of their time
        rows.append(
            {
                "event_id": event.id,
                "team": mail.team,
                "subject": mail.subject,
                "text": mail.text,
                "status": "pending",
                "tries": 0,
                "not_before": now,
                "created_at": now,
            }
        )
    connection.execute(
        insert_into(mails, connection.dialect.name).on_conflict_do_nothing(
            index_elements=["event_id"]
        ),
        rows,
    )
