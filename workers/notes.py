"""What the inbox notes: which events came, which of them wait, and whose turn it is."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Connection,
    DateTime,
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

from workers.database import insert
from workers.envelope import Envelope, from_json

WINDOW = 50
"""So many sequences of a sku are looked at in one step: a crowd may wait behind the next gap."""


def tables(metadata: MetaData) -> tuple[Table, Table]:
    """The two tables, to stand beside a subscriber's own."""
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


class Notes:
    """Both tables, inside of one transaction."""

    def __init__(self, connection: Connection, metadata: MetaData) -> None:
        self._connection = connection
        self._received = metadata.tables["received"]
        self._progress = metadata.tables["progress"]
        self._held = self._received.c.held.is_not(None)

    def lock(self, skus: Iterable[str]) -> dict[str, int]:
        """The sequence whose turn it is, by sku; nobody else works on these until the commit."""
        # All missing rows first, then all locks, both in one order for everybody: whoever waits for
        # another one here has nothing that the other one waits for.
        ordered = sorted(skus)
        self._connection.execute(
            insert(self._connection, self._progress).on_conflict_do_nothing(index_elements=["sku"]),
            [{"sku": sku, "next_sequence": 1} for sku in ordered],
        )
        columns = self._progress.c
        rows = self._connection.execute(
            select(columns.sku, columns.next_sequence)
            .where(columns.sku.in_(ordered))
            .order_by(columns.sku)
            .with_for_update()
        )
        return {row.sku: row.next_sequence for row in rows}

    def move(self, turns: Mapping[str, int]) -> None:
        """Set whose turn it is, of skus that are locked."""
        change = insert(self._connection, self._progress)
        self._connection.execute(
            change.on_conflict_do_update(
                index_elements=["sku"], set_={"next_sequence": change.excluded.next_sequence}
            ),
            [{"sku": sku, "next_sequence": turn} for sku, turn in turns.items()],
        )

    def known(self, ids: Collection[UUID]) -> set[UUID]:
        """Which of these events came before."""
        column = self._received.c.event_id
        return set(self._connection.scalars(select(column).where(column.in_(ids))))

    def add(self, events: Iterable[Envelope], waiting: Collection[UUID], now: datetime) -> None:
        """Note events that came; those in `waiting` are kept whole."""
        self._connection.execute(
            insert(self._connection, self._received),
            [
                {
                    "event_id": event.id,
                    "sku": event.subject,
                    "sequence": event.sequence,
                    "held": dict(event.body) if event.id in waiting else None,
                    "received_at": now,
                }
                for event in events
            ],
        )

    def waiting(self, skus: Collection[str]) -> list[Envelope]:
        """Those that wait and may be next, by the turns that were set last."""
        columns = self._received.c
        rows = self._connection.scalars(
            select(columns.held)
            .join(self._progress, self._progress.c.sku == columns.sku)
            .where(
                columns.sku.in_(skus),
                self._held,
                columns.sequence < self._progress.c.next_sequence + WINDOW,
            )
        )
        return [from_json(held) for held in rows]

    def release(self, ids: Collection[UUID]) -> None:
        """Their turn has come: they wait no more."""
        column = self._received.c.event_id
        self._connection.execute(
            update(self._received).where(column.in_(ids), self._held).values(held=None)
        )

    def forget(self, event_id: UUID) -> None:
        """Drop the note of an event that waits."""
        column = self._received.c.event_id
        self._connection.execute(delete(self._received).where(column == event_id, self._held))

    def overdue(self, limit: datetime) -> list[str]:
        """The skus of which something has waited since before `limit`."""
        columns = self._received.c
        query = select(columns.sku).where(self._held, columns.received_at < limit)
        return list(self._connection.scalars(query.distinct()))

    def first_waiting(self, sku: str, limit: datetime) -> int | None:
        """The lowest sequence that waits; None when nothing has waited since before `limit`."""
        columns = self._received.c
        lowest, oldest = self._connection.execute(
            select(
                func.min(columns.sequence), func.count().filter(columns.received_at < limit)
            ).where(columns.sku == sku, self._held)
        ).one()
        return lowest if oldest else None
