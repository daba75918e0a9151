"""The warehouse's outbox: events that are committed with what they tell of, and sent after it."""

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Connection, Engine, MetaData, Row, insert, select, update

from allocation.messaging import cloudevents
from allocation.messaging.retention import Past
from workers.retention import Kind
from workers.warehouse.tables import outbox

SOURCE = "warehouse"


def _sent_before(_: MetaData, limit: datetime) -> Past:
    return Past(outbox.c.event_id, outbox.c.sent_at, outbox.c.sent_at < limit)


SENT = Kind("sent", _sent_before, one="event sent", many="events sent")


@dataclass(frozen=True, slots=True)
class Event:
    """One CloudEvent; with the source, its id is what others know it by."""

    id: UUID
    type: str
    subject: str
    time: datetime
    data: Mapping[str, object]

    def as_json(self) -> str:
        """Structured JSON; the event begins a correlation of its own."""
        return json.dumps(
            cloudevents.build(
                id=self.id,
                source=SOURCE,
                type=self.type,
                subject=self.subject,
                time=self.time.isoformat(timespec="microseconds"),
                data=self.data,
                correlationid=str(self.id),
            )
        )


def add(
    connection: Connection,
    events: Sequence[Event],
    now: datetime,
    traceparent: str | None = None,
) -> None:
    """Have the events sent, once the caller's transaction has committed."""
    connection.execute(
        insert(outbox),
        [
            {
                "event_id": event.id,
                "type": event.type,
                "body": event.as_json(),
                "traceparent": traceparent,
                "created_at": now,
            }
            for event in events
        ],
    )


def is_empty(engine: Engine) -> bool:
    """Whether all was sent."""
    query = select(outbox.c.event_id).where(outbox.c.sent_at.is_(None)).limit(1)
    with engine.connect() as connection:
        return connection.execute(query).first() is None


@contextmanager
def oldest(engine: Engine) -> Iterator[Row[Any] | None]:
    """The oldest row that was not sent; marked as sent when the block ends without an exception.

    None when there is none that no other process has in hand. Whoever dies inside the block leaves
    the row as it was.
    """
    query = (
        select(outbox)
        .where(outbox.c.sent_at.is_(None))
        .order_by(outbox.c.created_at, outbox.c.event_id)
        .limit(1)
        .with_for_update(skip_locked=True)
    )
    with engine.begin() as connection:
        row = connection.execute(query).one_or_none()
        yield row
        if row is not None:
            connection.execute(
                update(outbox)
                .where(outbox.c.event_id == row.event_id)
                .values(sent_at=datetime.now(UTC))
            )
