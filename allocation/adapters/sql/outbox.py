"""The outbox: a unit of work adds messages to it, and one reader at a time has them sent.

`allocation.messaging.outbox_relay.in_order` keeps the order of each sku.
"""

import fcntl
import select as os_select
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol
from uuid import UUID

import psycopg2
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
from allocation.adapters.sql.tables import (
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
from allocation.messaging.statements import Writes, add_new
from allocation.service_layer.unit_of_work import Message

NOTIFY_CHANNEL = "allocation_outbox"
"""The channel on which PostgreSQL wakes the relay."""

DUE_AT_ONCE = 500
"""Scheduled commands that one transaction accepts."""

LONGEST_INTERVAL = 12
"""The longest interval between two resends of a command, in units of ALLOCATION_RESEND_AFTER."""

_OF_COMMAND = ("id", "name", "body", "correlation_id", "causation_id")
_LOCK = 4_130_519_772  # any number that no other program locks in the same database
_SQLITE_POLL = 0.05  # seconds; SQLite can wake nobody, so its reader looks again and again


class SqlOutbox:
    """Rows that the relay sends on once they are committed; written together by `write`."""

    def __init__(self, now: Callable[[], datetime]) -> None:
        self._now = now
        self._rows: list[dict[str, object]] = []

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
        changes.add(outbox, rows)
        return bool(rows)

    def _add(self, **row: object) -> None:
        self._rows.append({"due_at": None, "sent_at": None, "orderid": None, "choice": None, **row})


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

        Less those at the positions `besides`.
        """
        asked = {"limit": limit, "besides": list(besides)}
        with self._connection.begin():
            return self._connection.execute(_pending(self._connection.dialect.name), asked).all()

    def accept_due(self) -> int:
        """Accept the scheduled commands whose time has come by the database's clock; how many."""
        with self._connection.begin():
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
        with self._connection.begin():
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
    is_new = (
        position != all_(bindparam("besides", type_=ARRAY(position.type)))
        if dialect == "postgresql"
        else position.not_in(bindparam("besides", expanding=True))
    )
    return (
        select(*to_send)
        .where(is_unsent, is_new)
        .order_by(outbox.c.position)
        .limit(bindparam("limit"))
    )


@cache
def _sent(dialect: str) -> Update:
    is_sent = among(outbox.c.position, "positions", dialect)
    # By the database's clock, with which `_overdue` compares it.
    at = func.now() if dialect == "postgresql" else bindparam("at")
    return update(outbox).where(is_sent).values(sent_at=at)


def _seconds(moment: ColumnElement[datetime]) -> ColumnElement[int]:
    return extract("epoch", moment)


def only_reader(engine: Engine) -> AbstractContextManager[OutboxReader | None]:
    """The reader, or None while another process is it; the lock ends with the process."""
    return _on_postgresql(engine) if is_postgresql(engine) else _on_sqlite(engine)


def woken(connection: Connection) -> Wait:
    """A wait that ends when something is committed to the outbox.

    On PostgreSQL by this connection, which has to be in AUTOCOMMIT; it is of no use to others then.
    """
    if not is_postgresql(connection):
        return lambda seconds: time.sleep(min(seconds, _SQLITE_POLL))
    connection.execute(text(f"LISTEN {NOTIFY_CHANNEL}"))
    connection.commit()
    driver = connection.connection.driver_connection
    assert driver is not None

    def wait(seconds: float) -> None:
        os_select.select([driver], [], [], seconds)
        # Of a lost connection the next statement tells, as SQLAlchemy's error.
        with suppress(psycopg2.Error):
            driver.poll()
            driver.notifies.clear()

    return wait


@contextmanager
def _on_postgresql(engine: Engine) -> Iterator[OutboxReader | None]:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        if not connection.scalar(text(f"SELECT pg_try_advisory_lock({_LOCK})")):
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
