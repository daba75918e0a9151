"""What `allocation prune` looks for"""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.create_index("ix_commands_accepted_at", "commands", ["accepted_at"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_commands_accepted_at", table_name="commands")
