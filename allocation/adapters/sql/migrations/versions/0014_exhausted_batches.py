"""Open batches by a column that an allocation seldom changes

The index of open batches was on `allocated`, which each allocation changes: so each wrote the
batch's entries in all indexes anew, and left dead ones behind until the next vacuum. PostgreSQL
writes the table anew and locks it meanwhile. Workers of the release before find the open batches
of a product by its other index.
"""

import sqlalchemy as sa
from alembic import op

revision = "0014"
down_revision = "0013"

_REST = "blocked IS NULL AND NOT expired"


def upgrade() -> None:
    # SQLite can only add a column that it computes when it is read.
    stored = op.get_bind().dialect.name == "postgresql"
    exhausted = sa.Computed("allocated >= purchased", persisted=stored)
    op.add_column("batches", sa.Column("exhausted", sa.Boolean(), exhausted))
    _replace_index(f"NOT exhausted AND {_REST}")


def downgrade() -> None:
    _replace_index(f"allocated < purchased AND {_REST}")
    with op.batch_alter_table("batches") as table:
        table.drop_column("exhausted")


def _replace_index(where: str) -> None:
    condition = sa.text(where)
    op.drop_index("ix_batches_open", "batches")
    op.create_index(
        "ix_batches_open", "batches", ["sku"], postgresql_where=condition, sqlite_where=condition
    )
