"""Which order line a mail is about"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    op.add_column("mails", sa.Column("orderid", sa.String(length=255), nullable=True))
    op.add_column("mails", sa.Column("sku", sa.String(length=255), nullable=True))
    op.add_column("mails", sa.Column("sequence", sa.BigInteger(), nullable=True))
    op.create_index("ix_mails_line", "mails", ["orderid", "sku"], unique=False)


def downgrade() -> None:
    op.drop_index("ix_mails_line", table_name="mails")
    for name in ("sequence", "sku", "orderid"):
        op.drop_column("mails", name)
