"""When the goods of a pick arrive, and how many of its pieces have left"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"

COLUMNS = ("eta", "eta_sequence", "dispatched_qty", "confirmed_qty")


def upgrade() -> None:
    op.add_column("picks", sa.Column("eta", sa.Date(), nullable=True))
    op.add_column("picks", sa.Column("eta_sequence", sa.BigInteger(), nullable=True))
    for name in COLUMNS[2:]:
        pieces: sa.Column[int] = sa.Column(name, sa.Integer(), nullable=False, server_default="0")
        op.add_column("picks", pieces)


def downgrade() -> None:
    # The previous release knows only whole picks: the pieces that are left stay to be picked.
    op.execute(
        "UPDATE picks SET qty = qty - dispatched_qty WHERE status = 'open' AND dispatched_qty > 0"
    )
    with op.batch_alter_table("picks") as table:
        for name in COLUMNS:
            table.drop_column(name)
