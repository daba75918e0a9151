"""The warehouse's own tables."""

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    String,
    Table,
)

from workers import notes

VERSION_TABLE = "warehouse_version"

metadata = MetaData()

received, progress = notes.tables(metadata)

picks = Table(
    "picks",
    metadata,
    Column("sku", String(255), primary_key=True),
    Column("opened_sequence", BigInteger, primary_key=True, autoincrement=False),
    Column("orderid", String(255), nullable=False),
    Column("qty", Integer, nullable=False),
    Column("batchref", String(255), nullable=False),
    Column("status", String(10), nullable=False),
    Column("closed_sequence", BigInteger),
    Column("opened_at", DateTime(timezone=True), nullable=False),
    Column("closed_at", DateTime(timezone=True)),
    CheckConstraint("status IN ('open', 'cancelled')", name="ck_picks_status"),
    CheckConstraint(
        "(status = 'open') = (closed_sequence IS NULL)", name="ck_picks_closed_when_cancelled"
    ),
)
Index("ix_picks_line", picks.c.orderid, picks.c.sku)
