"""Which part of a line a pick is for"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"


def upgrade() -> None:
    part: sa.Column[int] = sa.Column("part", sa.SmallInteger(), nullable=False, server_default="0")
    op.add_column("picks", part)


def downgrade() -> None:
    with op.batch_alter_table("picks") as table:
        table.drop_column("part")
