"""The inbox: each event once, and those of a sku in the order of their sequence.

An event that comes ahead of its turn is kept until its predecessors have come, or until they have
been missing for too long. Every call is one transaction with the effects. An event that fails when
it is delivered fails for the caller; one that fails after it waited is set aside.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import structlog
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    DateTime,
    Engine,
    Index,
    MetaData,
    String,
    Table,
    Uuid,
    select,
    update,
)
from sqlalchemy.exc import InterfaceError, OperationalError

from workers.database import insert
from workers.envelope import Envelope, from_json

log = structlog.get_logger(__name__)

Apply = Callable[[Connection, Envelope, bool], None]
"""Makes an event's effect; the last argument says that later events of its sku came before it."""


def tables(metadata: MetaData) -> tuple[Table, Table]:
    """The inbox's two tables, to stand beside a subscriber's own."""
    received = Table(
        "received",
        metadata,
        Column("event_id", Uuid, primary_key=True),
        Column("sku", String(255), nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("held", JSON(none_as_null=True)),
        Column("received_at", DateTime(timezone=True), nullable=False),
    )
    waiting = received.c.held.is_not(None)
    Index(
        "ix_received_held",
        received.c.sku,
        received.c.sequence,
        postgresql_where=waiting,
        sqlite_where=waiting,
    )
    progress = Table(
        "progress",
        metadata,
        Column("sku", String(255), primary_key=True),
        Column("next_sequence", BigInteger, nullable=False),
    )
    return received, progress


class Inbox:
    """Applies each event once and in turn; any number of processes may share the tables."""

    def __init__(
        self,
        engine: Engine,
        metadata: MetaData,
        apply: Apply,
        patience: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._received = metadata.tables["received"]
        self._progress = metadata.tables["progress"]
        self._apply = apply
        self._patience = patience
        self._now = now

    def take(self, event: Envelope) -> None:
        """Apply the event and all that waited for it, keep it for later, or know it as a repeat."""
        with self._engine.begin() as connection:
            turn = self._lock(connection, event.subject)
            if not self._note(connection, event, held=event.sequence > turn):
                return
            if event.sequence < turn:
                self._apply(connection, event, True)
            elif event.sequence == turn:
                self._apply(connection, event, False)
                self._catch_up(connection, event.subject, turn + 1)

    def give_up_waiting(self) -> None:
        """Go on without events that have been missing for longer than the patience."""
        columns = self._received.c
        overdue = (
            select(columns.sku)
            .join(self._progress, self._progress.c.sku == columns.sku)
            .where(
                columns.held.is_not(None),
                columns.sequence >= self._progress.c.next_sequence,  # before: set aside
                columns.received_at < self._now() - self._patience,
            )
            .distinct()
        )
        with self._engine.begin() as connection:
            skus = connection.scalars(overdue).all()
        for sku in skus:
            with self._engine.begin() as connection:
                turn = self._lock(connection, sku)
                query = select(columns.sequence).where(
                    columns.sku == sku, columns.held.is_not(None), columns.sequence >= turn
                )
                first = connection.scalar(query.order_by(columns.sequence).limit(1))
                if first is not None:
                    log.warning(
                        "events are missing; going on without them",
                        sku=sku,
                        first_missing=turn,
                        last_missing=first - 1,
                    )
                    self._catch_up(connection, sku, first)

    def _lock(self, connection: Connection, sku: str) -> int:
        """The sequence whose turn it is; nobody else works on this sku until the commit."""
        connection.execute(
            insert(connection, self._progress)
            .values(sku=sku, next_sequence=1)
            .on_conflict_do_nothing(index_elements=["sku"])
        )
        columns = self._progress.c
        return connection.execute(
            select(columns.next_sequence).where(columns.sku == sku).with_for_update()
        ).scalar_one()

    def _note(self, connection: Connection, event: Envelope, held: bool) -> bool:
        """False when the event came before."""
        noted = connection.execute(
            insert(connection, self._received)
            .values(
                event_id=event.id,
                sku=event.subject,
                sequence=event.sequence,
                held=dict(event.body) if held else None,
                received_at=self._now(),
            )
            .on_conflict_do_nothing(index_elements=["event_id"])
        )
        return noted.rowcount == 1

    def _catch_up(self, connection: Connection, sku: str, turn: int) -> None:
        """Apply what waits from `turn` on, up to the next gap."""
        columns = self._received.c
        waiting = connection.execute(
            select(columns.event_id, columns.sequence, columns.held)
            .where(columns.sku == sku, columns.held.is_not(None), columns.sequence >= turn)
            .order_by(columns.sequence)
        ).all()
        for event_id, sequence, held in waiting:
            if sequence > turn:
                break
            if self._apply_held(connection, from_json(held), sequence < turn):
                connection.execute(
                    update(self._received).where(columns.event_id == event_id).values(held=None)
                )
            turn = max(turn, sequence + 1)
        connection.execute(
            update(self._progress).where(self._progress.c.sku == sku).values(next_sequence=turn)
        )

    def _apply_held(self, connection: Connection, event: Envelope, late: bool) -> bool:
        """False when the event failed: it is set aside, its body stays in the table."""
        try:
            with connection.begin_nested():
                self._apply(connection, event, late)
        except (OperationalError, InterfaceError):
            raise  # the database is away: all of it is done again
        except Exception as error:  # one event's fault must not stop the others
            log.exception(
                "an event that had waited failed and is set aside: its body is in the table"
                " received, column held",
                event_id=str(event.id),
                sku=event.subject,
                sequence=event.sequence,
                error=repr(error),
            )
            return False
        return True
