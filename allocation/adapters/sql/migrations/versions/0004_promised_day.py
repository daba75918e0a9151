"""The day that each line was promised"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    op.add_column("allocations", sa.Column("eta", sa.Date(), nullable=True))
    op.execute(
        "UPDATE allocations SET eta ="
        " (SELECT eta FROM batches WHERE batches.batchref = allocations.batchref)"
        " WHERE batchref IN (SELECT batchref FROM batches WHERE eta IS NOT NULL)"
    )


def downgrade() -> None:
    with op.batch_alter_table("allocations") as table:
        table.drop_column("eta")
