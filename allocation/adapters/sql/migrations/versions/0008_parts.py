"""Lines that several batches serve, in parts"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"

_WAITS = sa.text("batchref IS NULL")
_NEEDS = sa.text("coalesce(smallest_part, qty)")


def upgrade() -> None:
    # Workers of the release before insert lines without it.
    part: sa.Column[int] = sa.Column(
        "part", sa.SmallInteger(), nullable=False, server_default=sa.text("0")
    )
    smallest: sa.Column[int] = sa.Column("smallest_part", sa.Integer(), nullable=True)
    with op.batch_alter_table("allocations") as table:
        table.add_column(part)
        table.add_column(smallest)
        table.drop_constraint("pk_allocations", type_="primary")
        table.create_primary_key("pk_allocations", ["orderid", "sku", "part"])
    op.drop_index("ix_allocations_waiting", table_name="allocations")
    _waiting("sku", _NEEDS, "age")


def downgrade() -> None:
    op.drop_index("ix_allocations_waiting", table_name="allocations")
    with op.batch_alter_table("allocations") as table:
        table.drop_constraint("pk_allocations", type_="primary")
        table.create_primary_key("pk_allocations", ["orderid", "sku"])
        table.drop_column("smallest_part")
        table.drop_column("part")
    _waiting("sku", "qty", "age")


def _waiting(*columns: str | sa.TextClause) -> None:
    op.create_index(
        "ix_allocations_waiting",
        "allocations",
        list(columns),
        postgresql_where=_WAITS,
        sqlite_where=_WAITS,
    )
