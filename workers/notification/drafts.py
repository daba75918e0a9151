"""The mails of order lines, as rows: those that one transaction notes, and those it finds."""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache
from typing import Any
from uuid import UUID, uuid5

from sqlalchemy import Connection, Select, bindparam, select, update

from allocation.messaging.cloudevents import Envelope
from allocation.messaging.database import among, insert_into
from workers.notification.moves import Line
from workers.notification.rules import Mail
from workers.notification.tables import mails


@dataclass(frozen=True, slots=True)
class _Draft:
    event: Envelope
    line: Line
    part: int
    mail: Mail


@dataclass(frozen=True, slots=True)
class _Known:
    id: UUID
    sequence: int
    team: str
    part: int | None


class Drafts:
    """What one transaction notes; each mail is known by its line and its event's sequence."""

    def __init__(self, connection: Connection, lines: Collection[Line]) -> None:
        """Of these lines the mails that were noted before are known too."""
        self._connection = connection
        self._dialect = connection.dialect.name
        self._new: dict[UUID, _Draft] = {}
        self._more: list[tuple[UUID, str]] = []
        self._known: defaultdict[Line, list[_Known]] = defaultdict(list)
        if not lines:
            return
        asked = {
            "orderids": list({orderid for orderid, _ in lines}),
            "skus": list({sku for _, sku in lines}),
        }
        for row in connection.execute(_asked(self._dialect), asked):
            known = _Known(row.event_id, row.sequence, row.team, row.part)
            self._known[row.orderid, row.sku].append(known)

    def tells_orders(self, line: Line, part: int, sequence: int) -> bool:
        """Whether the event of this number led to a mail to the orders team about the part."""
        mail = self._to_orders(line, sequence)
        return mail is not None and mail.part in (part, None)

    def has_newer(self, line: Line, sequence: int) -> bool:
        """Whether a later event than that led to a mail about the line."""
        return any(known.sequence > sequence for known in self._known[line])

    def note(self, event: Envelope, line: Line, part: int, mails: Sequence[Mail]) -> None:
        """Note the mails about the event, two at most; noting them again has no effect.

        The first has the event's id, the second an id derived from it: mail programs deduplicate by
        these.
        """
        for mail in mails:
            mail_id = event.id if mail is mails[0] else uuid5(event.id, mail.team)
            self._new[mail_id] = _Draft(event, line, part, mail)
            self._known[line].append(_Known(mail_id, event.sequence, mail.team, part))

    def add(self, line: Line, sequence: int, text: str) -> None:
        """Write more into a mail to the orders team, unless somebody began to send it."""
        known = self._to_orders(line, sequence)
        assert known is not None, f"no mail of {line} was noted for {sequence}"
        if draft := self._new.get(known.id):
            mail = replace(draft.mail, text=draft.mail.text + text)
            self._new[known.id] = replace(draft, mail=mail)
        else:
            self._more.append((known.id, text))

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
        for mail_id, draft in self._new.items():
            now = datetime.now(UTC)  # each its own: mails are sent in the order of their time
            orderid, sku = draft.line
            rows.append(
                {
                    "event_id": mail_id,
                    "orderid": orderid,
                    "sku": sku,
                    "part": draft.part,
                    "sequence": draft.event.sequence,
                    "trace_id": draft.event.trace_id,
                    "team": draft.mail.team,
                    "subject": draft.mail.subject,
                    "text": draft.mail.text,
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

    def _to_orders(self, line: Line, sequence: int) -> _Known | None:
        return next(
            (
                known
                for known in self._known[line]
                if known.sequence == sequence and known.team == "orders"
            ),
            None,
        )


@cache
def _asked(dialect: str) -> Select[Any]:
    columns = mails.c
    return select(
        columns.event_id,
        columns.orderid,
        columns.sku,
        columns.part,
        columns.sequence,
        columns.team,
    ).where(among(columns.orderid, "orderids", dialect), among(columns.sku, "skus", dialect))
