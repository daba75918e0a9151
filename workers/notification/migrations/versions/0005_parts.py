"""Which pieces of a line have no batch, and which part of it a mail is about"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"

# So that SQLite's primary key, which has no name, can be dropped by the one that it has elsewhere.
_NAMES = {"pk": "%(table_name)s_pkey"}


def upgrade() -> None:
    # Processes of the previous release insert rows without these.
    part: sa.Column[int] = sa.Column(
        "part", sa.SmallInteger(), nullable=False, server_default=sa.text("0")
    )
    qty: sa.Column[int] = sa.Column("qty", sa.Integer(), nullable=True)
    told: sa.Column[bool] = sa.Column(
        "told", sa.Boolean(), nullable=False, server_default=sa.false()
    )
    with op.batch_alter_table("moving", naming_convention=_NAMES) as table:
        table.add_column(part)
        table.add_column(qty)
        table.add_column(told)
        table.alter_column("batchref", existing_type=sa.String(length=255), nullable=True)
        table.drop_constraint("moving_pkey", type_="primary")
        table.create_primary_key("moving_pkey", ["orderid", "sku", "sequence"])
    op.add_column("mails", sa.Column("part", sa.SmallInteger(), nullable=True))


def downgrade() -> None:
    with op.batch_alter_table("mails") as table:
        table.drop_column("part")
    # One row a line was the last batch that it had to leave.
    op.execute(
        "DELETE FROM moving WHERE batchref IS NULL OR EXISTS (SELECT 1 FROM moving newer"
        " WHERE newer.orderid = moving.orderid AND newer.sku = moving.sku"
        " AND newer.batchref IS NOT NULL AND newer.sequence > moving.sequence)"
    )
    with op.batch_alter_table("moving", naming_convention=_NAMES) as table:
        table.drop_constraint("moving_pkey", type_="primary")
        table.create_primary_key("moving_pkey", ["orderid", "sku"])
        table.alter_column("batchref", existing_type=sa.String(length=255), nullable=False)
        for name in ("told", "qty", "part"):
            table.drop_column(name)
