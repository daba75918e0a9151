"""The mails of order lines, as rows: those that one transaction notes, and those it finds."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Select, bindparam, select, update

from workers.database import among, insert_into
from workers.envelope import Envelope
from workers.notification.moves import Line
from workers.notification.rules import Mail
from workers.notification.tables import mails


class Drafts:
    """What one transaction notes; each mail is known by its line and its event's sequence."""

    def __init__(self, connection: Connection, lines: Collection[Line]) -> None:
        """Of these lines the mails that were noted before are known too."""
        self._connection = connection
        self._dialect = connection.dialect.name
        self._new: dict[UUID, tuple[Envelope, Line, Mail]] = {}
        self._more: list[tuple[UUID, str]] = []
        self._known: defaultdict[Line, dict[int, UUID]] = defaultdict(dict)
        if not lines:
            return
        asked = {
            "orderids": list({orderid for orderid, _ in lines}),
            "skus": list({sku for _, sku in lines}),
        }
        for row in connection.execute(_asked(self._dialect), asked):
            self._known[row.orderid, row.sku][row.sequence] = row.event_id

    def has(self, line: Line, sequence: int) -> bool:
        """Whether the event of this number led to a mail about the line."""
        return sequence in self._known[line]

    def has_newer(self, line: Line, sequence: int) -> bool:
        """Whether a later event than that led to a mail about the line."""
        return any(known > sequence for known in self._known[line])

    def note(self, event: Envelope, line: Line, mail: Mail) -> None:
        """Have the mail sent; once an event, however often this is done."""
        self._new[event.id] = (event, line, mail)
        self._known[line].setdefault(event.sequence, event.id)

    def add(self, line: Line, sequence: int, text: str) -> None:
        """Write more into a mail, unless somebody began to send it."""
        event_id = self._known[line][sequence]
        if event_id in self._new:
            event, line, mail = self._new[event_id]
            self._new[event_id] = (event, line, replace(mail, text=mail.text + text))
        else:
            self._more.append((event_id, text))

    def save(self) -> None:
        """Write all of it."""
        if self._more:
            # A mail that is tried again must be the same: its Message-ID says so.
            self._connection.execute(
                update(mails)
                .where(
                    mails.c.event_id == bindparam("id"),
                    mails.c.status == "pending",
                    mails.c.tries == 0,
                )
                .values(text=mails.c.text + bindparam("more")),
                [{"id": event_id, "more": text} for event_id, text in self._more],
            )
        if not self._new:
            return
        rows = []
        for event, (orderid, sku), mail in self._new.values():
            now = datetime.now(UTC)  # each its own: mails are sent in the order of their time
            rows.append(
                {
                    "event_id": event.id,
                    "orderid": orderid,
                    "sku": sku,
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
            )
        self._connection.execute(
            insert_into(mails, self._dialect).on_conflict_do_nothing(index_elements=["event_id"]),
            rows,
        )


@cache
def _asked(dialect: str) -> Select[Any]:
    columns = mails.c
    return select(columns.event_id, columns.orderid, columns.sku, columns.sequence).where(
        among(columns.orderid, "orderids", dialect), among(columns.sku, "skus", dialect)
    )
