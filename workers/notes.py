"""What the inbox notes: which events came, which of them wait, and whose turn it is."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from functools import cache
from typing import Any
from uuid import UUID

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    CompoundSelect,
    Connection,
    DateTime,
    Index,
    MetaData,
    Select,
    String,
    Table,
    Uuid,
    delete,
    func,
    null,
    select,
    update,
)

from allocation.messaging.cloudevents import Envelope, from_json
from allocation.messaging.database import Insert, among, insert_into

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


class NewSkus(Exception):
    """Nothing was ever heard of these skus: `begin` them in a transaction of their own."""

    def __init__(self, skus: Collection[str]) -> None:
        super().__init__(", ".join(skus))
        self.skus = skus


class Notes:
    """Both tables, inside of one transaction."""

    def __init__(self, connection: Connection, metadata: MetaData) -> None:
        self._connection = connection
        self._dialect = connection.dialect.name
        self._received = metadata.tables["received"]
        self._progress = metadata.tables["progress"]
        self._held = self._received.c.held.is_not(None)

    def begin(self, skus: Iterable[str]) -> None:
        """Make skus known, the turn being the first one's."""
        self._connection.execute(
            insert_into(self._progress, self._dialect).on_conflict_do_nothing(
                index_elements=["sku"]
            ),
            [{"sku": sku, "next_sequence": 1} for sku in sorted(skus)],
        )

    def lock(self, skus: Collection[str]) -> dict[str, int]:
        """The sequence whose turn it is, by sku; nobody else works on these until the commit.

        Raises NewSkus: whoever added a row here would hold others up, and be held up by them.
        """
        # All locks by one statement and in one order for everybody: nobody waits for each other.
        rows = self._connection.execute(_turns(self._progress, self._dialect), {"skus": list(skus)})
        turns = {row.sku: row.next_sequence for row in rows}
        if new := set(skus) - turns.keys():
            raise NewSkus(new)
        return turns

    def move(self, turns: Mapping[str, int]) -> None:
        """Set whose turn it is, of skus that are locked."""
        self._connection.execute(
            _moved(self._progress, self._dialect),
            [{"sku": sku, "next_sequence": turn} for sku, turn in turns.items()],
        )

    def known(self, ids: Collection[UUID], skus: Collection[str]) -> tuple[set[UUID], set[str]]:
        """Which of these events came before, and of which skus something waits."""
        rows = self._connection.execute(
            _known(self._received, self._dialect), {"ids": list(ids), "skus": list(skus)}
        ).all()
        return (
            {row.event_id for row in rows if row.event_id is not None},
            {row.sku for row in rows if row.sku is not None},
        )

    def add(self, events: Iterable[Envelope], waiting: Collection[UUID], now: datetime) -> None:
        """Note events that came; those in `waiting` are kept whole."""
        self._connection.execute(
            _added(self._received, self._dialect),
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


# Statements are built once: that takes longer than to send one.


@cache
def _turns(progress: Table, dialect: str) -> Select[tuple[str, int]]:
    columns = progress.c
    return (
        select(columns.sku, columns.next_sequence)
        .where(among(columns.sku, "skus", dialect))
        .order_by(columns.sku)
        .with_for_update()
    )


@cache
def _moved(progress: Table, dialect: str) -> Insert:
    change = insert_into(progress, dialect)
    return change.on_conflict_do_update(
        index_elements=["sku"], set_={"next_sequence": change.excluded.next_sequence}
    )


@cache
def _known(received: Table, dialect: str) -> CompoundSelect[Any]:
    columns = received.c
    came = select(columns.event_id, null().cast(String).label("sku"))
    waits = select(null().cast(Uuid), columns.sku).distinct()
    return came.where(among(columns.event_id, "ids", dialect)).union_all(
        waits.where(columns.held.is_not(None), among(columns.sku, "skus", dialect))
    )


@cache
def _added(received: Table, dialect: str) -> Insert:
    return insert_into(received, dialect)
