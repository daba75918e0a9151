"""The warehouse's own tables."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Date,
    DateTime,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
)

from allocation.messaging import resequencer

VERSION_TABLE = "warehouse_version"

metadata = MetaData()

received, progress = resequencer.tables(metadata, subject_column="sku")

picks = Table(
    "picks",
    metadata,
    Column("sku", String(255), primary_key=True),
    Column("opened_sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("orderid", String(255), nullable=False),
    Column("qty", Integer, nullable=False),
    Column("batchref", String(255), nullable=False),
    Column("part", SmallInteger, nullable=False, server_default="0"),
    Column("status", String(10), nullable=False),
    Column("closed_sequence", BigInteger),
    Column("opened_at", DateTime(timezone=True), nullable=False),
    Column("closed_at", DateTime(timezone=True)),
    # When the goods of an open pick arrive, null if they are there; and the event that changed it.
    Column("eta", Date),
    Column("eta_sequence", BigInteger),
    # Pieces that have left, if not all have; and those that Allocation has off its books.
    Column("dispatched_qty", Integer, nullable=False, server_default="0"),
    Column("confirmed_qty", Integer, nullable=False, server_default="0"),
    CheckConstraint("status IN ('open', 'cancelled', 'dispatched')", name="ck_picks_status"),
    CheckConstraint(
        "(status = 'cancelled') = (closed_sequence IS NOT NULL)",
        name="ck_picks_closed_when_cancelled",
    ),
)
Index("ix_picks_line", picks.c.orderid, picks.c.sku)

# Events of the warehouse: committed with the dispatch, and kept for a while after publishing.
outbox = Table(
    "outgoing",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    Column("type", String(255), nullable=False),
    Column("body", Text, nullable=False),
    Column("traceparent", String(55)),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("sent_at", DateTime(timezone=True)),
)
Index("ix_outgoing_sent_at", outbox.c.sent_at, outbox.c.created_at)
