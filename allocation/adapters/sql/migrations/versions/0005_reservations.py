"""Lines that are held for a while, or have left; commands that are due later"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"


def upgrade() -> None:
    op.add_column("allocations", sa.Column("customer", sa.String(255), nullable=True))
    op.add_column("allocations", sa.Column("expires_at", sa.DateTime(timezone=True), nullable=True))
    for name in ("extended", "dispatched"):
        # Workers of the release before insert lines without it.
        column: sa.Column[bool] = sa.Column(
            name, sa.Boolean(), nullable=False, server_default=sa.false()
        )
        op.add_column("allocations", column)
    op.add_column("outbox", sa.Column("due_at", sa.DateTime(timezone=True), nullable=True))
    op.drop_index("ix_allocations_promised", table_name="allocations")
    _index("ix_allocations_promised", "batchref IS NOT NULL AND NOT dispatched")
    _index("ix_allocations_held", "batchref IS NOT NULL AND expires_at IS NOT NULL")
    condition = sa.text("due_at IS NOT NULL")
    op.create_index(
        "ix_outbox_scheduled",
        "outbox",
        ["due_at"],
        postgresql_where=condition,
        sqlite_where=condition,
    )


def downgrade() -> None:
    op.drop_index("ix_outbox_scheduled", table_name="outbox")
    op.drop_index("ix_allocations_held", table_name="allocations")
    op.drop_index("ix_allocations_promised", table_name="allocations")
    _index("ix_allocations_promised", "batchref IS NOT NULL")
    with op.batch_alter_table("outbox") as table:
        table.drop_column("due_at")
    with op.batch_alter_table("allocations") as table:
        for name in ("dispatched", "extended", "expires_at", "customer"):
            table.drop_column(name)


def _index(name: str, condition: str) -> None:
    where = sa.text(condition)
    op.create_index(
        name,
        "allocations",
        ["batchref", "promised_at"],
        postgresql_where=where,
        sqlite_where=where,
    )
