"""Picks that were dispatched, and the outbox that tells it"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    _set_checks(
        "status IN ('open', 'cancelled', 'dispatched')",
        "(status = 'cancelled') = (closed_sequence IS NOT NULL)",
    )
    op.create_table(
        "outgoing",
        sa.Column("event_id", sa.Uuid(), nullable=False),
        sa.Column("type", sa.String(length=255), nullable=False),
        sa.Column("body", sa.Text(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.PrimaryKeyConstraint("event_id"),
    )
    op.create_index("ix_outgoing_sent_at", "outgoing", ["sent_at", "created_at"], unique=False)


def downgrade() -> None:
    op.drop_table("outgoing")
    # The first release knows no such pick. An open one is there for people to look at.
    op.execute("UPDATE picks SET status = 'open', closed_at = NULL WHERE status = 'dispatched'")
    _set_checks("status IN ('open', 'cancelled')", "(status = 'open') = (closed_sequence IS NULL)")


def _set_checks(status: str, closed: str) -> None:
    checks = {"ck_picks_status": status, "ck_picks_closed_when_cancelled": closed}
    with op.batch_alter_table("picks") as table:
        for name, condition in checks.items():
            table.drop_constraint(name, type_="check")
            table.create_check_constraint(name, condition)
