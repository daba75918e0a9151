"""The notification service's own tables."""

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
    Text,
    Uuid,
)

from workers import notes

VERSION_TABLE = "notification_version"

metadata = MetaData()

received, progress = notes.tables(metadata)

# Lines that had to leave a batch and have no other yet.
moving = Table(
    "moving",
    metadata,
    Column("orderid", String(255), primary_key=True),
    Column("sku", String(255), primary_key=True),
    Column("batchref", String(255), nullable=False),
    Column("sequence", BigInteger, nullable=False),
)

mails = Table(
    "mails",
    metadata,
    Column("event_id", Uuid, primary_key=True),
    # The order line that it is about, and its event's number; null in mails of the first release.
    Column("orderid", String(255)),
    Column("sku", String(255)),
    Column("sequence", BigInteger),
    Column("trace_id", String(32)),
    Column("team", String(10), nullable=False),
    Column("subject", Text, nullable=False),
    Column("text", Text, nullable=False),
    Column("status", String(10), nullable=False),
    Column("tries", Integer, nullable=False),
    Column("not_before", DateTime(timezone=True), nullable=False),
    Column("error", Text),
    Column("created_at", DateTime(timezone=True), nullable=False),
    Column("sent_at", DateTime(timezone=True)),
    CheckConstraint("status IN ('pending', 'sent', 'failed')", name="ck_mails_status"),
)
pending = mails.c.status == "pending"
Index("ix_mails_pending", mails.c.not_before, postgresql_where=pending, sqlite_where=pending)
Index("ix_mails_line", mails.c.orderid, mails.c.sku)
