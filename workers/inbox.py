"""The inbox: each event once, and those of a sku in the order of their sequence.

An event that comes ahead of its turn is kept until its predecessors have come, or until they have
been missing for too long. Every call is one transaction with the effects.
"""

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

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
    delete,
    func,
    select,
    update,
)

from workers import logs
from workers.database import insert, is_outage
from workers.envelope import Envelope, from_json

log = structlog.get_logger(__name__)

Apply = Callable[[Connection, Envelope, bool], None]
"""Makes an event's effect; the last argument says that later events of its sku came before it."""


class HeldFailed(Exception):
    """An event that had waited fails now that its turn has come; the cause says why."""

    def __init__(self, event: Envelope) -> None:
        super().__init__(f"{event.type} {event.id}")
        self.event = event


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
    Index("ix_received_received_at", received.c.received_at)
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
        self._since = now()

    def resume(self) -> None:
        """Begin to consume: what could not come until now is not missing yet.

        Raises what `is_outage` knows while the database is away.
        """
        self._engine.connect().close()
        self._since = self._now()

    def still_catching_up(self) -> None:
        """What is missing may be on its way: patience begins anew."""
        self._since = self._now()

    def take(self, event: Envelope, *, oldest: bool = False) -> None:
        """Apply the event and all that waited for it, keep it for later, or know it as a repeat.

        `oldest`: nothing of its sku before it will be told any more, so whoever knows nothing of
        the sku yet begins here. Raises HeldFailed, with nothing done, when one that waited for it
        fails.
        """
        with self._engine.begin() as connection:
            turn = self._lock(connection, event.subject)
            if begins := oldest and turn == 1:
                turn = event.sequence
            if not self._note(connection, event, held=event.sequence > turn):
                if begins:
                    self._catch_up(connection, event.subject, turn)
                return
            if event.sequence < turn:
                self._effect(connection, event, late=True)
            elif event.sequence == turn:
                self._effect(connection, event, late=False)
                self._catch_up(connection, event.subject, turn + 1)

    def give_up_waiting(self) -> None:
        """Go on without events that have been missing for longer than the patience.

        Raises HeldFailed when one that waited for them fails; the others may be asked for again.
        """
        columns = self._received.c
        limit = self._now() - self._patience
        if self._since > limit:
            return
        overdue = select(columns.sku).where(columns.held.is_not(None), columns.received_at < limit)
        with self._engine.begin() as connection:
            skus = connection.scalars(overdue.distinct()).all()
        for sku in skus:
            with self._engine.begin() as connection:
                turn = self._lock(connection, sku)
                if connection.scalar(overdue.where(columns.sku == sku).limit(1)) is None:
                    continue  # what was missing came just now
                first = connection.execute(
                    select(func.min(columns.sequence)).where(
                        columns.sku == sku, columns.held.is_not(None)
                    )
                ).scalar_one()
                self._catch_up(connection, sku, first)
                log.warning(
                    "events are missing; going on without them",
                    sku=sku,
                    first_missing=turn,
                    last_missing=first - 1,
                )

    def forget(self, event: Envelope) -> None:
        """Drop an event that waits; should it come again, it is a new one."""
        columns = self._received.c
        with self._engine.begin() as connection:
            connection.execute(
                delete(self._received).where(
                    columns.event_id == event.id, columns.held.is_not(None)
                )
            )

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

    def _effect(self, connection: Connection, event: Envelope, late: bool) -> None:
        with logs.about(event):
            self._apply(connection, event, late)

    def _catch_up(self, connection: Connection, sku: str, turn: int) -> None:
        """Apply what waits from `turn` on, up to the next gap."""
        columns = self._received.c

        def next_waiting() -> Any:
            return connection.execute(
                select(columns.event_id, columns.sequence, columns.held)
                .where(columns.sku == sku, columns.held.is_not(None), columns.sequence <= turn)
                .order_by(columns.sequence)
                .limit(1)
            ).one_or_none()

        while row := next_waiting():
            event = from_json(row.held)
            try:
                self._effect(connection, event, late=row.sequence < turn)
            except Exception as error:
                if is_outage(error):
                    raise
                raise HeldFailed(event) from error  # whatever it was, the fault is this event's
            connection.execute(
                update(self._received).where(columns.event_id == row.event_id).values(held=None)
            )
            turn = max(turn, row.sequence + 1)
        connection.execute(
            update(self._progress).where(self._progress.c.sku == sku).values(next_sequence=turn)
        )
