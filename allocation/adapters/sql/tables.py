"""The tables of the allocation database."""

from datetime import UTC, date, datetime
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    ColumnElement,
    Computed,
    Date,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    TypeDecorator,
    Uuid,
    and_,
    false,
    func,
    literal_column,
    or_,
    text,
    true,
    type_coerce,
)
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement


class UtcDateTime(TypeDecorator[datetime]):
    """A moment in UTC; SQLite stores no time zone, so UTC is added on reading."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        return value.astimezone(UTC) if value else None

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


# SQLite increments only an INTEGER primary key by itself.
RowNumber = BigInteger().with_variant(Integer(), "sqlite")

metadata = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s_%(referred_table_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _partial_index(name: str, *columns: ColumnElement[Any], where: ColumnElement[bool]) -> None:
    Index(name, *columns, postgresql_where=where, sqlite_where=where)


def _is_false(column: Column[bool]) -> ColumnElement[bool]:
    """`NOT column`, as the partial indexes say it.

    SQLAlchemy writes `column = 0` for SQLite, which then uses none of these indexes.
    """
    return ~type_coerce(column, Integer)  # type: ignore[return-value]


products = Table(
    "products",
    metadata,
    Column("sku", String(255), primary_key=True),
    Column("version", BigInteger, nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("strategy", String(30), nullable=False, server_default="earliest_first"),
    Column("waiting", String(10), nullable=False, server_default="fill"),
    Column("improve", Boolean, nullable=False, server_default=true()),
)

batches = Table(
    "batches",
    metadata,
    Column("batchref", String(255), primary_key=True),
    Column("sku", ForeignKey("products.sku"), nullable=False),
    Column("purchased", Integer, nullable=False),
    Column("allocated", Integer, nullable=False),
    Column("eta", Date),
    Column("best_before", Date),
    Column("blocked", String(200)),
    Column("expired", Boolean, nullable=False, server_default=false()),
    Column("overdue", Boolean, nullable=False, server_default=false()),
    # In the place of the two columns in an index: `allocated` changes with each allocation, and
    # PostgreSQL updates a row in its place (HOT) only if no indexed column changes.
    Column("exhausted", Boolean, Computed("allocated >= purchased")),
    CheckConstraint("0 <= allocated AND allocated <= purchased", name="books_balance"),
)
is_open = and_(
    _is_false(batches.c.exhausted),
    batches.c.blocked.is_(None),
    _is_false(batches.c.expired),
)
# A batch without free stock, or that serves no line, costs an allocation nothing.
_partial_index("ix_batches_open", batches.c.sku, where=is_open)
# Reads page through a product's empty batches, its history, by this index, or skip them by it. On
# PostgreSQL its `batchref` has COLLATE "C", the order of these pages: see migration 0011.
Index("ix_batches_sku", batches.c.sku, batches.c.purchased, batches.c.batchref)

allocations = Table(
    "allocations",
    metadata,
    Column("orderid", String(255), primary_key=True),
    Column("sku", ForeignKey("products.sku"), primary_key=True),
    Column(
        *("part", SmallInteger),
        primary_key=True,
        autoincrement=False,
        server_default=text("0"),
    ),
    # The highest part number that the line ever had, as far as this part knows; none is reused.
    Column("last_part", SmallInteger, nullable=False, server_default=text("0")),
    Column("qty", Integer, nullable=False),
    Column("smallest_part", Integer),
    Column("age", BigInteger, nullable=False),
    Column("batchref", ForeignKey("batches.batchref")),
    Column("promised_at", BigInteger),
    Column("eta", Date),
    Column("told", Boolean, nullable=False),
    Column("customer", String(255)),
    Column("expires_at", UtcDateTime),
    Column("extended", Boolean, nullable=False, server_default=false()),
    Column("dispatched", Boolean, nullable=False, server_default=false()),
    Column("priority", SmallInteger, nullable=False, server_default=text("0")),
    Column("not_before", Date),
    Column("fresh_days", Integer, nullable=False, server_default=text("0")),
    Column("dispatched_qty", Integer, nullable=False, server_default=text("0")),
    Column("returned", Integer, nullable=False, server_default=text("0")),
    CheckConstraint("qty >= 1", name="qty_positive"),
    CheckConstraint("(batchref IS NULL) = (promised_at IS NULL)", name="allocated_or_waiting"),
)
needs = func.coalesce(allocations.c.smallest_part, allocations.c.qty)
"""The fewest pieces that serve a line, or a part of it."""
waits = allocations.c.batchref.is_(None)
untold = and_(waits, _is_false(allocations.c.told))
promised = and_(allocations.c.batchref.is_not(None), _is_false(allocations.c.dispatched))
held = and_(allocations.c.batchref.is_not(None), allocations.c.expires_at.is_not(None))
holds = allocations.c.qty - allocations.c.dispatched_qty
"""Pieces of its batch that a promised line still holds."""


class DaysBefore(FunctionElement[date]):
    """`DaysBefore(day, number)`: the day minus a number of days."""

    type = Date()
    inherit_cache = True


@compiles(DaysBefore, "postgresql")
def _subtracted(element: DaysBefore, compiler: SQLCompiler, **kw: Any) -> str:
    day, number = element.clauses
    return f"({compiler.process(day, **kw)} - {compiler.process(number, **kw)})"


@compiles(DaysBefore, "sqlite")
def _modified(element: DaysBefore, compiler: SQLCompiler, **kw: Any) -> str:
    day, number = element.clauses
    return f"date({compiler.process(day, **kw)}, -{compiler.process(number, **kw)} || ' days')"


def serves(today: date | ColumnElement[date]) -> ColumnElement[bool]:
    """Whether a batch has enough for a line, or a part of it, and `Batch.serves` it."""
    last_day = DaysBefore(batches.c.best_before, allocations.c.fresh_days)
    is_good = and_(
        last_day >= today,
        or_(batches.c.eta.is_(None), last_day >= batches.c.eta),
        or_(allocations.c.not_before.is_(None), last_day >= allocations.c.not_before),
    )
    return and_(
        is_open,
        batches.c.purchased - batches.c.allocated >= needs,
        or_(batches.c.best_before.is_(None), is_good),
    )


# A literal, so that SQLite sees that a partial index has these rows.
is_particular = or_(
    allocations.c.fresh_days > literal_column("0"), allocations.c.not_before.is_not(None)
)
improvable = and_(
    promised,
    allocations.c.eta.is_not(None),
    or_(allocations.c.not_before.is_(None), allocations.c.eta > allocations.c.not_before),
)
"""Lines that were promised for a day, and may move to stock that comes earlier."""
in_service_order = (allocations.c.priority.desc(), allocations.c.age)
"""The columns of `service_order`; of a line one part at most waits, so that these are enough."""
in_shortage_order = (allocations.c.priority, allocations.c.promised_at.desc())
"""The columns of `shortage_order`, after reservations were separated from allocations."""
_SKU = allocations.c.sku
_partial_index("ix_allocations_waiting", _SKU, needs, allocations.c.age, where=waits)
_partial_index("ix_allocations_queue", _SKU, *in_service_order, where=waits)
_partial_index("ix_allocations_untold", _SKU, *in_service_order, where=untold)
_partial_index("ix_allocations_particular", _SKU, allocations.c.batchref, where=is_particular)
_ON_BATCH = (allocations.c.batchref, *in_shortage_order)
_partial_index("ix_allocations_promised", *_ON_BATCH, where=promised)
_partial_index("ix_allocations_held", *_ON_BATCH, where=held)
# The first finds the next line that improves; the others say at once that there is none.
_partial_index(
    "ix_allocations_improvable",
    *(_SKU, *in_service_order, allocations.c.part),
    *(allocations.c.eta, holds, allocations.c.fresh_days),
    where=improvable,
)
_partial_index("ix_allocations_improvable_eta", _SKU, allocations.c.eta, where=improvable)
_partial_index("ix_allocations_improvable_qty", _SKU, holds, where=improvable)

commands = Table(
    "commands",
    metadata,
    Column("id", Uuid, primary_key=True),
    Column("name", String(100), nullable=False),
    Column("body", JSON, nullable=False),
    Column("status", String(10), nullable=False),
    Column("outcome", JSON(none_as_null=True)),
    Column("correlation_id", Uuid, nullable=False),
    Column("causation_id", Uuid),
    Column("accepted_at", UtcDateTime, nullable=False),
    Column("decided_at", UtcDateTime),
    CheckConstraint(
        "status IN ('pending', 'succeeded', 'rejected', 'failed')", name="status_known"
    ),
    CheckConstraint("(status = 'pending') = (outcome IS NULL)", name="decided_with_outcome"),
)
# Retention finds old commands by this, not by `decided_at`: a column that never changes costs a
# decision no new index entries.
Index("ix_commands_accepted_at", commands.c.accepted_at)

is_pending = commands.c.status == literal_column("'pending'")
# Pending commands are counted often.
_partial_index("ix_commands_pending", commands.c.accepted_at, where=is_pending)

api_keys = Table(
    "api_keys",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("name", String(100), nullable=False),
    Column("scopes", String(50), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("created_at", UtcDateTime, nullable=False),
    Column("revoked_at", UtcDateTime),
)

outbox = Table(
    "outbox",
    metadata,
    Column("position", RowNumber, primary_key=True, autoincrement=True),
    Column("id", Uuid, nullable=False, unique=True),
    Column("kind", String(10), nullable=False),
    Column("name", String(100), nullable=False),
    Column("sku", String(255)),
    Column("sequence", BigInteger),
    Column("body", JSON, nullable=False),
    Column("correlation_id", Uuid, nullable=False),
    Column("causation_id", Uuid),
    Column("created_at", UtcDateTime, nullable=False),
    Column("sent_at", UtcDateTime),
    Column("due_at", UtcDateTime),
    Column("orderid", String(255)),
    Column("choice", JSON(none_as_null=True)),
    Column("traceparent", String(55)),
    # Until then, by the database's clock, the worker that wrote the event publishes it, and the
    # relay no event of its sku; none: it is sent, or the relay's at once.
    Column("relay_at", UtcDateTime),
    CheckConstraint("kind IN ('command', 'event')", name="kind_known"),
    CheckConstraint("(kind = 'event') = (sequence IS NOT NULL)", name="events_numbered"),
)
_as_text = Uuid(as_uuid=False)
to_send = (
    outbox.c.position,
    type_coerce(outbox.c.id, _as_text).label("id"),
    outbox.c.kind,
    outbox.c.name,
    outbox.c.sku,
    outbox.c.body.cast(Text).label("body"),
    type_coerce(outbox.c.correlation_id, _as_text).label("correlation_id"),
    type_coerce(outbox.c.causation_id, _as_text).label("causation_id"),
    outbox.c.traceparent,
)
"""The columns of a message as text: the stored JSON is published without decoding it."""

is_unsent = outbox.c.sent_at.is_(None)
is_scheduled = outbox.c.due_at.is_not(None)
"""A command to accept at `due_at`, by the database's clock; it has no other row.

Until then it counts as sent, so that a relay of an older release does not send it at once.
"""
_partial_index("ix_outbox_pending", outbox.c.position, where=is_unsent)
_partial_index("ix_outbox_relay_at", outbox.c.relay_at, where=outbox.c.relay_at.is_not(None))
_partial_index("ix_outbox_scheduled", outbox.c.due_at, where=is_scheduled)
Index("ix_outbox_sku_sequence", outbox.c.sku, outbox.c.sequence, unique=True)
is_of_order = outbox.c.orderid.is_not(None)
_partial_index("ix_outbox_orderid", outbox.c.orderid, outbox.c.sku, where=is_of_order)

partitions = Table(
    "partitions",
    metadata,
    # Empty while all commands are in the queue `allocation.commands`.
    Column("queue", String(100), primary_key=True),
    Column("partitions", Integer, nullable=False),
    # While their number changes there are two: the older one is consumed until it is empty.
    Column("generation", Integer, nullable=False),
    Column("consumed", Boolean, nullable=False, server_default=true()),
    Column("worker", String(255)),
    Column("since", UtcDateTime),
    Column("seen_at", UtcDateTime),
)
"""The queues of commands, and the workers that last said that they decide their commands."""
