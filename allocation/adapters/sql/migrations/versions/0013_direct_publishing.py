"""Until when an outbox row is left to the worker that publishes it

To make the index, which is empty at first, PostgreSQL reads the table once and locks it meanwhile.
"""

import sqlalchemy as sa
from alembic import op

revision = "0013"
down_revision = "0012"


def upgrade() -> None:
    # Nullable and without a default: no row is written anew, and a row of a worker of the release
    # before is published by the relay at once.
    op.add_column("outbox", sa.Column("relay_at", sa.DateTime(timezone=True), nullable=True))
    direct = sa.text("relay_at IS NOT NULL")
    op.create_index(
        "ix_outbox_relay_at", "outbox", ["relay_at"], postgresql_where=direct, sqlite_where=direct
    )


def downgrade() -> None:
    op.drop_index("ix_outbox_relay_at", "outbox")
    with op.batch_alter_table("outbox") as table:
        table.drop_column("relay_at")
