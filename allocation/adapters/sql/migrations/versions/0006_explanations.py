"""What each choice was made from, to be asked for by order"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"


def upgrade() -> None:
    op.add_column("outbox", sa.Column("orderid", sa.String(255), nullable=True))
    op.add_column("outbox", sa.Column("choice", sa.JSON(none_as_null=True), nullable=True))
    condition = sa.text("orderid IS NOT NULL")
    op.create_index(
        "ix_outbox_orderid",
        "outbox",
        ["orderid", "sku"],
        postgresql_where=condition,
        sqlite_where=condition,
    )


def downgrade() -> None:
    op.drop_index("ix_outbox_orderid", table_name="outbox")
    with op.batch_alter_table("outbox") as table:
        table.drop_column("choice")
        table.drop_column("orderid")
