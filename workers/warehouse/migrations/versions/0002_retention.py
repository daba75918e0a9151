"""What `prune` looks for"""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    op.create_index("ix_received_received_at", "received", ["received_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_received_received_at", table_name="received")
