"""The outbox: a unit of work adds messages to it, and one reader at a time has them sent.

A worker may publish its events itself after the commit; the reader leaves these to it for GRACE.
The events of each sku are sent and marked in their order, by worker and reader alike:

- A worker publishes events of a sku only if no earlier one was unsent under the product's lock.
- While it does, the reader leaves the later ones of the sku alone as well.
- `allocation.messaging.outbox_relay.in_order` holds marks back behind an unconfirmed event.
"""

import fcntl
import json
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple, Protocol
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Engine,
    Row,
    Select,
    Update,
    all_,
    and_,
    bindparam,
    extract,
    func,
    or_,
    select,
    text,
    update,
)

from allocation.adapters.sql.database import ago, clock
from allocation.adapters.sql.notifications import Notification, listen
from allocation.adapters.sql.tables import (
    UtcDateTime,
    commands,
    is_pending,
    is_scheduled,
    is_unsent,
    outbox,
    to_send,
)
from allocation.contract import codec
from allocation.domain.events import Event
from allocation.messaging.database import among, is_postgresql
from allocation.messaging.outbox_relay import in_order
from allocation.messaging.statements import Writes, add_new, prepared
from allocation.service_layer.unit_of_work import Message

NOTIFY_CHANNEL = "allocation_outbox"
"""The channel on which PostgreSQL wakes the relay, and the streams of live events."""

NOT_FOR_RELAY = "direct"
"""The payload of a notification of rows that the relay need not publish now."""

GRACE = timedelta(seconds=2)
"""How long the relay leaves a row to the worker that publishes it: longer than that tries it."""

DUE_AT_ONCE = 500
"""Scheduled commands that one transaction accepts."""

LONGEST_INTERVAL = 12
"""The longest interval between two resends of a command, in units of ALLOCATION_RESEND_AFTER."""

_OF_COMMAND = ("id", "name", "body", "correlation_id", "causation_id")
_LOCK = 4_130_519_772  # any number that no other program locks in the same database
_SQLITE_POLL = 0.05  # seconds; SQLite can wake nobody, so its reader looks again and again


class EventRow(NamedTuple):
    """An event's row as the columns `tables.to_send` have it: ids and body are text."""

    id: str
    kind: str
    name: str
    sku: str
    body: str
    correlation_id: str
    causation_id: str
    traceparent: str | None


class EventPublisher(Protocol):
    """Publishes events itself once they are committed."""

    @property
    def is_ready(self) -> bool:
        """Whether it would try now; if not, the relay gets the events at once."""
        ...

    def publish(self, rows: Sequence[EventRow]) -> None:
        """Publish the rows, and mark those that the broker confirmed.

        After GRACE the relay publishes those that are not marked.
        """
        ...


class SqlOutbox:
    """Rows that are sent on once they are committed; written together by `write`."""

    def __init__(
        self,
        now: Callable[[], datetime],
        is_direct: Callable[[str], bool] = lambda sku: False,
        elapsed: Callable[[], timedelta] = timedelta,
    ) -> None:
        """`is_direct`: whether the caller publishes the sku's events after the commit.

        It finds them in `direct_rows`. `elapsed`: the time that has passed since `now`.
        """
        self._now = now
        self._is_direct = is_direct
        self._elapsed = elapsed
        self._rows: list[dict[str, Any]] = []
        self.direct_rows: list[EventRow] = []
        """The events that were written, for the caller to publish."""
        self.has_row_for_relay = False
        """Whether a row was written that the relay is to publish at once."""

    def add(self, event: Event, cause: Message) -> None:
        created_at = self._now()
        body = codec.cloud_event(event, cause, created_at)
        self._add(
            id=UUID(body["id"]),
            kind="event",
            name=body["type"],
            sku=body["subject"],
            sequence=event.sequence,
            body=body,
            correlation_id=cause.correlation_id,
            causation_id=cause.id,
            created_at=created_at,
            traceparent=cause.traceparent,
            orderid=getattr(event, "orderid", None),
            choice=codec.choice(event),
            relay_at=created_at + GRACE if self._is_direct(body["subject"]) else None,
        )

    def add_command(self, message: Message, due_at: datetime | None = None) -> None:
        body = codec.command_body(message.command)
        self._add(
            id=message.id,
            kind="command",
            name=codec.command_name(message.command),
            sku=body.get("sku"),
            sequence=None,
            body=body,
            correlation_id=message.correlation_id,
            causation_id=message.causation_id,
            created_at=(now := self._now()),
            traceparent=message.traceparent,
            due_at=due_at,
            sent_at=now if due_at else None,
        )

    def schedule(self, message: Message, due_at: datetime) -> None:
        self.add_command(message, due_at)

    def write(self, changes: Writes) -> bool:
        """Add the rows to `changes`, in their order; False when there are none."""
        rows, self._rows = self._rows, []
        passed = self._elapsed()
        for row in rows:
            if row["relay_at"] is not None:
                row["relay_at"] += passed
        changes.add(outbox, rows)
        self.direct_rows += [_event_row(row) for row in rows if row["relay_at"] is not None]
        self.has_row_for_relay = any(row["relay_at"] is row["sent_at"] is None for row in rows)
        return bool(rows)

    def _add(self, **row: object) -> None:
        unset = ("due_at", "sent_at", "orderid", "choice", "relay_at")
        self._rows.append({**dict.fromkeys(unset), **row})


def _event_row(row: Mapping[str, Any]) -> EventRow:
    return EventRow(
        id=str(row["id"]),
        kind=row["kind"],
        name=row["name"],
        sku=row["sku"],
        body=json.dumps(row["body"]),
        correlation_id=str(row["correlation_id"]),
        causation_id=str(row["causation_id"]),
        traceparent=row["traceparent"],
    )


def mark_published(engine: Engine, rows: Sequence[EventRow], confirmed: Collection[str]) -> None:
    """Have the relay never send the rows with these ids, and send at once what they held back.

    But rows behind an unconfirmed one of their sku are sent again after it, and all if this is
    lost. Raises SQLAlchemy's error if the relay is marking one of them.
    """
    ids = [row.id for row in in_order(rows, confirmed, lambda row: row.sku)]
    if not ids:
        return
    if is_postgresql(engine):
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            planned = prepared(connection, _MARK_PUBLISHED, "uuid[], text")
            connection.exec_driver_sql(
                # A lost mark harms nobody, so it need not be on the disk.
                "SET LOCAL synchronous_commit TO off;"
                f" EXECUTE {planned} (%(ids)s::uuid[], %(channel)s)",
                {"ids": ids, "channel": NOTIFY_CHANNEL},
            )
        return
    is_published = among(outbox.c.id, "ids", engine.dialect.name)
    marked = {"sent_at": datetime.now(UTC), "relay_at": None}
    mark = update(outbox).where(is_published, is_unsent).values(marked)
    with engine.begin() as connection:
        connection.execute(mark, {"ids": [UUID(each) for each in ids]})


# While the relay marks rows, which it had to send after GRACE, all are left to it: to wait for it
# could be a deadlock, and to mark the others a mark out of order. The next event of a sku is looked
# up by its number; if it is committed only later, its own commit wakes the relay. If both commits
# overlap, the relay finds it by itself, half a second later. No condition is about `sent_at`:
# PostgreSQL might go through all unsent rows for each of these.
_MARK_PUBLISHED = """
    WITH marked AS (
        UPDATE outbox SET sent_at = coalesce(sent_at, now()), relay_at = NULL WHERE position IN (
            SELECT position FROM outbox WHERE id = ANY ($1) FOR UPDATE NOWAIT
        )
        RETURNING sku, sequence
    )
    SELECT pg_notify($2, '') WHERE EXISTS (
        SELECT FROM marked WHERE (
            SELECT next.sent_at IS NULL AND next.relay_at IS NULL FROM outbox AS next
            WHERE next.sku = marked.sku AND next.sequence = marked.sequence + 1
        )
    )"""


class Wait(Protocol):
    def __call__(self, seconds: float) -> None:
        """Return after this time, or sooner when something was committed."""
        ...


class OutboxReader:
    """Pending rows in order, on the very connection that holds the reader's lock.

    Rows are picked by what is pending, never by a position that was reached: transactions commit
    in another order than they number their rows.
    """

    def __init__(self, connection: Connection, wait: Wait) -> None:
        self._connection = connection
        self.wait = wait

    def pending(self, limit: int, besides: Sequence[int] = ()) -> Sequence[Row[Any]]:
        """The oldest rows that are not marked, all of a sku in the order of its events.

        Less those at the positions `besides`, and all events of a sku while the worker of the first
        ones may still publish these.
        """
        asked: dict[str, object] = {"limit": limit, "besides": list(besides)}
        if not is_postgresql(self._connection):
            asked["now"] = datetime.now(UTC)
        with self._connection.begin():
            return self._connection.execute(_pending(self._connection.dialect.name), asked).all()

    def accept_due(self) -> int:
        """Accept the scheduled commands whose time has come by the database's clock; how many."""
        with self._locking():
            now = clock(self._connection)
            asked = (
                select(outbox.c.position, *(outbox.c[name] for name in _OF_COMMAND))
                .where(is_scheduled, outbox.c.due_at <= now)
                .order_by(outbox.c.due_at)
                .limit(DUE_AT_ONCE)
            )
            due = self._connection.execute(asked).all()
            if due:
                state = {"status": "pending", "accepted_at": now}
                rows = [{name: getattr(row, name) for name in _OF_COMMAND} | state for row in due]
                # In this order: a command whose relay is killed in between is accepted again.
                add_new(self._connection, commands, rows)
                due_now = outbox.c.position.in_([row.position for row in due])
                # As of now: how long it was not due says nothing of the relay.
                changed = {"due_at": None, "sent_at": None, "created_at": state["accepted_at"]}
                self._connection.execute(update(outbox).where(due_now).values(changed))
        return len(due)

    def awaited(self) -> int:
        """How many pending commands were sent: broker and workers must hold a message of each."""
        pending = select(func.count()).select_from(commands).where(is_pending)
        unsent = select(func.count()).where(is_unsent, outbox.c.kind == "command")
        asked = select(pending.scalar_subquery() - unsent.scalar_subquery())
        with self._connection.begin():
            return max(0, self._connection.scalar(asked) or 0)

    def overdue(self, after: float) -> bool:
        """Whether `send_again` would send any command."""
        with self._connection.begin():
            return self._connection.execute(self._overdue(after).limit(1)).first() is not None

    def send_again(self, after: float, limit: int) -> int:
        """Have the oldest overdue commands sent again, at most `limit`; returns how many.

        A command is overdue when it is pending and was both accepted and last sent more than
        `after` seconds ago. The interval then doubles with each time that it is sent again, up to
        LONGEST_INTERVAL times `after`: a command that crashes its worker must not come back every
        few minutes for ever. A command whose outbox row was deleted gets a new one.
        """
        with self._locking():
            rows = self._connection.execute(self._overdue(after).limit(limit)).all()
            if not rows:
                return 0
            now = clock(self._connection)
            known = [row.position for row in rows if row.position is not None]
            if known:
                self._connection.execute(
                    update(outbox)
                    .where(outbox.c.position.in_(known))
                    # Set anew: the age of unsent rows measures how far the relay is behind.
                    .values(sent_at=None, created_at=now)
                )
            made = [
                {
                    "id": row.id,
                    "kind": "command",
                    "name": row.name,
                    "sku": row.body.get("sku"),
                    "body": row.body,
                    "correlation_id": row.correlation_id,
                    "causation_id": row.causation_id,
                    "created_at": now,
                }
                for row in rows
                if row.position is None
            ]
            if made:
                add_new(self._connection, outbox, made)
        return len(rows)

    @contextmanager
    def _locking(self) -> Iterator[None]:
        """A transaction that writes what it has read: SQLite then takes its write lock first.

        Else a commit in between would be an error, which no wait mends (SQLITE_BUSY_SNAPSHOT).
        """
        self._connection.execution_options(sqlite_begin="IMMEDIATE")
        try:
            with self._connection.begin():
                yield
        finally:
            self._connection.execution_options(sqlite_begin="DEFERRED")

    def _overdue(self, after: float) -> Select[Any]:
        before = ago(self._connection, after)
        # `send_again` sets `created_at` to the time of the resend; at first it is `accepted_at`.
        waited = _seconds(ago(self._connection, 0)) - _seconds(outbox.c.sent_at)
        interval = _seconds(outbox.c.created_at) - _seconds(commands.c.accepted_at)
        is_lost = and_(
            outbox.c.sent_at < before,
            or_(
                waited >= interval,
                outbox.c.sent_at < ago(self._connection, LONGEST_INTERVAL * after),
            ),
        )
        return (
            select(outbox.c.position, *(commands.c[name] for name in _OF_COMMAND))
            .outerjoin_from(commands, outbox, outbox.c.id == commands.c.id)
            .where(is_pending, commands.c.accepted_at < before)
            .where(or_(outbox.c.position.is_(None), is_lost))
            .order_by(commands.c.accepted_at)
        )

    def mark_sent(self, positions: Sequence[int]) -> None:
        """Never send the rows at these positions again."""
        if positions:
            with self._connection.begin():
                self._connection.execute(
                    _sent(self._connection.dialect.name),
                    {"positions": list(positions)}
                    | ({} if is_postgresql(self._connection) else {"at": datetime.now(UTC)}),
                )


@cache
def _pending(dialect: str) -> Select[Any]:
    position = outbox.c.position
    now = func.now() if dialect == "postgresql" else bindparam("now", type_=UtcDateTime())
    is_new = (
        position != all_(bindparam("besides", type_=ARRAY(position.type)))
        if dialect == "postgresql"
        else position.not_in(bindparam("besides", expanding=True))
    )
    direct = outbox.alias()
    held = select(direct.c.sku).where(direct.c.relay_at > now)
    return (
        select(*to_send)
        .where(is_unsent, is_new, or_(outbox.c.kind == "command", outbox.c.sku.not_in(held)))
        .order_by(outbox.c.position)
        .limit(bindparam("limit"))
    )


@cache
def _sent(dialect: str) -> Update:
    is_sent = among(outbox.c.position, "positions", dialect)
    # By the database's clock, with which `_overdue` compares it.
    at = func.now() if dialect == "postgresql" else bindparam("at")
    return update(outbox).where(is_sent).values(sent_at=at, relay_at=None)


def _seconds(moment: ColumnElement[datetime]) -> ColumnElement[int]:
    return extract("epoch", moment)


def only_reader(engine: Engine) -> AbstractContextManager[OutboxReader | None]:
    """The reader, or None while another process is it; the lock ends with the process."""
    return _on_postgresql(engine) if is_postgresql(engine) else _on_sqlite(engine)


def woken(connection: Connection) -> Wait:
    """A wait that ends when something is committed that the relay may publish now.

    On PostgreSQL by this connection, which has to be in AUTOCOMMIT; it is of no use to others then.
    """
    if not is_postgresql(connection):
        return lambda seconds: time.sleep(min(seconds, _SQLITE_POLL))
    listened = listen(connection, NOTIFY_CHANNEL)
    nothing = {Notification(NOTIFY_CHANNEL, NOT_FOR_RELAY)}

    def wait(seconds: float) -> None:
        until = time.monotonic() + seconds
        heard: Set[Notification] = nothing
        while heard == nothing and (left := until - time.monotonic()) > 0:
            heard = listened(left)

    return wait


@contextmanager
def _on_postgresql(engine: Engine) -> Iterator[OutboxReader | None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        is_only = connection.scalar(text(f"SELECT pg_try_advisory_lock({_LOCK})"))
        connection.commit()
        if not is_only:
            yield None
            return
        wait = woken(connection)
        # A mark that is lost with the server's power means that its row is sent again, which harms
        # nobody: so it need not be on the disk before the next rows are sent.
        connection.execute(text("SET synchronous_commit TO off"))
        connection.commit()
        try:
            yield OutboxReader(connection, wait)
        finally:
            # Not back into the pool: the lock and the LISTEN go with the connection.
            connection.invalidate()


@contextmanager
def _on_sqlite(engine: Engine) -> Iterator[OutboxReader | None]:
    path = Path(engine.url.database or "").with_suffix(".relay-lock")
    with path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield None
            return
        with engine.connect() as connection:
            yield OutboxReader(connection, woken(connection))
