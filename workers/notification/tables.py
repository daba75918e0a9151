"""The notification service's own tables."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    DateTime,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    Uuid,
    false,
)

from allocation.messaging import resequencer

VERSION_TABLE = "notification_version"

metadata = MetaData()

received, progress = resequencer.tables(metadata, subject_column="sku")

# Pieces of order lines that have no batch; each row is what one event left without one. Processes
# of a release that did not know parts write rows without part, qty and told.
moving = Table(
    "moving",
    metadata,
    Column("orderid", String(255), primary_key=True),
    Column("sku", String(255), primary_key=True),
    Column("sequence", BigInteger, primary_key=True, autoincrement=False),
    # The batch that they had to leave; null if they had none.
    Column("batchref", String(255)),
    Column("part", SmallInteger, nullable=False, server_default="0"),
    Column("qty", Integer),
    # Whether the stock team was mailed that they wait.
    Column("told", Boolean, nullable=False, server_default=false()),
)

mails = Table(
    "mails",
    metadata,
    # The event's id; a second mail about the same event has an id made from it.
    Column("event_id", Uuid, primary_key=True),
    # The order line that it is about, and its event's number; null in mails of the first release.
    # A mail about a batch has no order.
    Column("orderid", String(255)),
    Column("sku", String(255)),
    # Of the line; null in mails about stock, and of releases that did not know parts.
    Column("part", SmallInteger),
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
