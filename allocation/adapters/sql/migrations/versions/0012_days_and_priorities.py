"""Days, priorities, blocks, partial dispatches and returns"""

from datetime import UTC, date, datetime, time, timedelta
from uuid import uuid4

import sqlalchemy as sa
from alembic import op

revision = "0012"
down_revision = "0011"

_NONE = sa.text("0")
_PROMISED = "batchref IS NOT NULL AND NOT dispatched"
_HELD = "batchref IS NOT NULL AND expires_at IS NOT NULL"
_WAITS = "batchref IS NULL"
_UNANNOUNCED = "batchref IS NULL AND NOT told"
_OPEN = "allocated < purchased"
_SERVING = f"{_OPEN} AND blocked IS NULL AND NOT expired"
_IMPROVABLE = f"{_PROMISED} AND eta IS NOT NULL AND (not_before IS NULL OR eta > not_before)"
_SERVICE = (sa.text("priority DESC"), "age")
_SHORTAGE = ("batchref", "priority", sa.text("promised_at DESC"))
_HOLDS = sa.text("(qty - dispatched_qty)")
_AT_ONCE = 1000
_FIRST_LOOK = timedelta(hours=1)
"""Workers of the release before don't know these commands: by then they are upgraded."""


def upgrade() -> None:
    # Workers of the release before insert rows without the new columns.
    op.add_column(
        "products", sa.Column("waiting", sa.String(10), nullable=False, server_default="fill")
    )
    op.add_column(
        "products", sa.Column("improve", sa.Boolean(), nullable=False, server_default=sa.true())
    )
    op.add_column("batches", sa.Column("blocked", sa.String(200), nullable=True))
    for name in ("expired", "overdue"):
        flag: sa.Column[bool] = sa.Column(
            name, sa.Boolean(), nullable=False, server_default=sa.false()
        )
        op.add_column("batches", flag)
    op.add_column("allocations", sa.Column("not_before", sa.Date(), nullable=True))
    op.add_column("allocations", _count("priority", sa.SmallInteger()))
    for name in ("fresh_days", "dispatched_qty", "returned"):
        op.add_column("allocations", _count(name, sa.Integer()))
    _replace("ix_batches_open", "batches", _SERVING, "sku")
    _replace("ix_allocations_untold", "allocations", _UNANNOUNCED, "sku", *_SERVICE)
    _replace("ix_allocations_promised", "allocations", _PROMISED, *_SHORTAGE)
    _replace("ix_allocations_held", "allocations", _HELD, *_SHORTAGE)
    _add("ix_allocations_queue", _WAITS, "sku", *_SERVICE)
    _add(
        "ix_allocations_particular",
        "fresh_days > 0 OR not_before IS NOT NULL",
        *("sku", "batchref"),
    )
    _add(
        *("ix_allocations_improvable", _IMPROVABLE),
        *("sku", *_SERVICE, "part", "eta", _HOLDS, "fresh_days"),
    )
    _add("ix_allocations_improvable_eta", _IMPROVABLE, "sku", "eta")
    _add("ix_allocations_improvable_qty", _IMPROVABLE, "sku", _HOLDS)
    _schedule()


def downgrade() -> None:
    op.execute(
        "DELETE FROM outbox WHERE due_at IS NOT NULL"
        " AND name IN ('allocation.expire_batch', 'allocation.mark_overdue')"
    )
    # SQLite makes the table anew, and can't do that for an index on an expression.
    added = ("queue", "particular", "improvable", "improvable_eta", "improvable_qty")
    for name in (*added, "waiting"):
        op.drop_index(f"ix_allocations_{name}", table_name="allocations")
    _replace("ix_allocations_held", "allocations", _HELD, "batchref", "promised_at")
    _replace("ix_allocations_promised", "allocations", _PROMISED, "batchref", "promised_at")
    _replace("ix_allocations_untold", "allocations", _UNANNOUNCED, "sku", "age")
    _replace("ix_batches_open", "batches", _OPEN, "sku")
    with op.batch_alter_table("allocations") as table:
        for name in ("priority", "not_before", "fresh_days", "dispatched_qty", "returned"):
            table.drop_column(name)
    _add("ix_allocations_waiting", _WAITS, "sku", sa.text("coalesce(smallest_part, qty)"), "age")
    with op.batch_alter_table("batches") as table:
        for name in ("blocked", "expired", "overdue"):
            table.drop_column(name)
    with op.batch_alter_table("products") as table:
        table.drop_column("improve")
        table.drop_column("waiting")


def _count(name: str, kind: sa.Integer) -> "sa.Column[int]":
    return sa.Column(name, kind, nullable=False, server_default=_NONE)


def _replace(name: str, table: str, where: str, *columns: str | sa.TextClause) -> None:
    op.drop_index(name, table_name=table)
    _add(name, where, *columns, table=table)


def _add(name: str, where: str, *columns: str | sa.TextClause, table: str = "allocations") -> None:
    condition = sa.text(where)
    op.create_index(name, table, list(columns), postgresql_where=condition, sqlite_where=condition)


def _schedule() -> None:
    """Have batches looked at when their best-before day, or their ETA, has passed.

    The days begin in UTC here; a worker that gets the command too early schedules it again. Empty
    batches whose day has passed are left out.
    """
    connection = op.get_bind()
    batches = sa.table(
        "batches",
        *(sa.column("batchref", sa.String), sa.column("purchased", sa.Integer)),
        *(sa.column("eta", sa.Date), sa.column("best_before", sa.Date)),
        *(sa.column("overdue", sa.Boolean), sa.column("expired", sa.Boolean)),
    )
    now = datetime.now(UTC)
    rows = []
    for name, field, done in (
        ("expire_batch", "best_before", "expired"),
        ("mark_overdue", "eta", "overdue"),
    ):
        day = batches.c[field]
        past = sa.and_(batches.c.purchased == 0, day < now.date())
        connection.execute(sa.update(batches).where(past).values({done: True}))
        asked = sa.select(batches.c.batchref, day).where(day.is_not(None), ~batches.c[done])
        for batchref, last in connection.execute(asked):
            rows.append(_row(name, {"batchref": batchref, field: str(last)}, last, now))
    for first in range(0, len(rows), _AT_ONCE):
        op.bulk_insert(_OUTBOX, rows[first : first + _AT_ONCE])


_OUTBOX = sa.table(
    "outbox",
    *(sa.column(name, sa.Uuid) for name in ("id", "correlation_id")),
    *(sa.column(name, sa.String) for name in ("kind", "name")),
    sa.column("body", sa.JSON),
    *(sa.column(name, sa.DateTime(timezone=True)) for name in ("created_at", "sent_at", "due_at")),
)


def _row(name: str, body: dict[str, str], day: date, now: datetime) -> dict[str, object]:
    # Within what a moment can be, in every time zone.
    day = min(max(day, date(1970, 1, 1)), date(9999, 12, 29))
    due_at = datetime.combine(day + timedelta(days=1), time.min, UTC)
    command_id = uuid4()
    return {
        "id": command_id,
        "correlation_id": command_id,
        "kind": "command",
        "name": f"allocation.{name}",
        "body": body,
        "created_at": now,
        "sent_at": now,
        "due_at": max(due_at, now + _FIRST_LOOK),
    }
