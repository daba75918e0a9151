"""Partitions of the commands, and which worker has which"""

import sqlalchemy as sa
from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    op.create_table(
        "partitions",
        sa.Column("queue", sa.String(100), nullable=False),
        sa.Column("partitions", sa.Integer(), nullable=False),
        sa.Column("generation", sa.Integer(), nullable=False),
        sa.Column("consumed", sa.Boolean(), nullable=False, server_default=sa.true()),
        sa.Column("worker", sa.String(255), nullable=True),
        sa.Column("since", sa.DateTime(timezone=True), nullable=True),
        sa.Column("seen_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("queue", name=op.f("pk_partitions")),
    )


def downgrade() -> None:
    op.drop_table("partitions")
