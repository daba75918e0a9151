"""The numbers of a line's parts are never used again"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"


def upgrade() -> None:
    # Workers of the previous release insert lines without it.
    last_part: sa.Column[int] = sa.Column(
        "last_part", sa.SmallInteger(), nullable=False, server_default=sa.text("0")
    )
    op.add_column("allocations", last_part)


def downgrade() -> None:
    op.drop_column("allocations", "last_part")
