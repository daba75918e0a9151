"""The warehouse's tables"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "picks",
        sa.Column("sku", sa.String(length=255), nullable=False),
        sa.Column("opened_sequence", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("orderid", sa.String(length=255), nullable=False),
        sa.Column("qty", sa.Integer(), nullable=False),
        sa.Column("batchref", sa.String(length=255), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("closed_sequence", sa.BigInteger(), nullable=True),
        sa.Column("opened_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("closed_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'open') = (closed_sequence IS NULL)", name="ck_picks_closed_when_cancelled"
        ),
        sa.CheckConstraint("status IN ('open', 'cancelled')", name="ck_picks_status"),
        sa.PrimaryKeyConstraint("sku", "opened_sequence"),
    )
    op.create_index("ix_picks_line", "picks", ["orderid", "sku"], unique=False)
    op.create_table(
        "progress",
        sa.Column("sku", sa.String(length=255), nullable=False),
        sa.Column("next_sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sku"),
    )
    op.create_table(
        "received",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("sku", sa.String(length=255), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.Column("held", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index(
        "ix_received_held",
        "received",
        ["sku", "sequence"],
        unique=False,
        postgresql_where=sa.text("held IS NOT NULL"),
        sqlite_where=sa.text("held IS NOT NULL"),
    )


def downgrade() -> None:
    op.drop_table("received")
    op.drop_table("progress")
    op.drop_table("picks")
