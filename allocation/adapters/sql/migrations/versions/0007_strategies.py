"""The order in which a product's batches serve"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.add_column("batches", sa.Column("best_before", sa.Date(), nullable=True))
    strategy: sa.Column[str] = sa.Column(
        "strategy", sa.String(30), nullable=False, server_default="earliest_first"
    )
    op.add_column("products", strategy)


def downgrade() -> None:
    with op.batch_alter_table("products") as table:
        table.drop_column("strategy")
    with op.batch_alter_table("batches") as table:
        table.drop_column("best_before")
