"""An index by which reads page through a product's empty batches, or skip them"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    op.drop_index("ix_batches_sku", table_name="batches")
    is_postgresql = op.get_bind().dialect.name == "postgresql"
    batchref = sa.text('batchref COLLATE "C"' if is_postgresql else "batchref")
    op.create_index("ix_batches_sku", "batches", ["sku", "purchased", batchref])


def downgrade() -> None:
    op.drop_index("ix_batches_sku", table_name="batches")
    op.create_index("ix_batches_sku", "batches", ["sku"])
