"""The books, the inbox and the outbox"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None


def upgrade() -> None:
    op.create_table(
        "commands",
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("status", sa.String(length=10), nullable=False),
        sa.Column("outcome", sa.JSON(none_as_null=True), nullable=True),
        sa.Column("correlation_id", sa.Uuid(), nullable=False),
        sa.Column("causation_id", sa.Uuid(), nullable=True),
        sa.Column("accepted_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("decided_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(status = 'pending') = (outcome IS NULL)",
            name=op.f("ck_commands_decided_with_outcome"),
        ),
        sa.CheckConstraint(
            "status IN ('pending', 'succeeded', 'rejected', 'failed')",
            name=op.f("ck_commands_status_known"),
        ),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_commands")),
    )
    op.create_table(
        "outbox",
        sa.Column(
            "position",
            sa.BigInteger().with_variant(sa.Integer(), "sqlite"),
            autoincrement=True,
            nullable=False,
        ),
        sa.Column("id", sa.Uuid(), nullable=False),
        sa.Column("kind", sa.String(length=10), nullable=False),
        sa.Column("name", sa.String(length=100), nullable=False),
        sa.Column("sku", sa.String(length=255), nullable=True),
        sa.Column("sequence", sa.BigInteger(), nullable=True),
        sa.Column("body", sa.JSON(), nullable=False),
        sa.Column("correlation_id", sa.Uuid(), nullable=False),
        sa.Column("causation_id", sa.Uuid(), nullable=True),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("sent_at", sa.DateTime(timezone=True), nullable=True),
        sa.CheckConstraint(
            "(kind = 'event') = (sequence IS NOT NULL)", name=op.f("ck_outbox_events_numbered")
        ),
        sa.CheckConstraint("kind IN ('command', 'event')", name=op.f("ck_outbox_kind_known")),
        sa.PrimaryKeyConstraint("position", name=op.f("pk_outbox")),
        sa.UniqueConstraint("id", name=op.f("uq_outbox_id")),
    )
    op.create_index(
        "ix_outbox_pending",
        "outbox",
        ["position"],
        unique=False,
        postgresql_where=sa.text("sent_at IS NULL"),
        sqlite_where=sa.text("sent_at IS NULL"),
    )
    op.create_index("ix_outbox_sku_sequence", "outbox", ["sku", "sequence"], unique=True)

    op.create_table(
        "products",
        sa.Column("sku", sa.String(length=255), nullable=False),
        sa.Column("version", sa.BigInteger(), nullable=False),
        sa.Column("sequence", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("sku", name=op.f("pk_products")),
    )
    op.create_table(
        "batches",
        sa.Column("batchref", sa.String(length=255), nullable=False),
        sa.Column("sku", sa.String(length=255), nullable=False),
        sa.Column("purchased", sa.Integer(), nullable=False),
        sa.Column("allocated", sa.Integer(), nullable=False),
        sa.Column("eta", sa.Date(), nullable=True),
        sa.CheckConstraint(
            "0 <= allocated AND allocated <= purchased", name=op.f("ck_batches_books_balance")
        ),
        sa.ForeignKeyConstraint(["sku"], ["products.sku"], name=op.f("fk_batches_sku_products")),
        sa.PrimaryKeyConstraint("batchref", name=op.f("pk_batches")),
    )
    op.create_index(
        "ix_batches_open",
        "batches",
        ["sku"],
        unique=False,
        postgresql_where=sa.text("allocated < purchased"),
        sqlite_where=sa.text("allocated < purchased"),
    )
    op.create_index("ix_batches_sku", "batches", ["sku"], unique=False)

    op.create_table(
        "allocations",
        sa.Column("orderid", sa.String(length=255), nullable=False),
        sa.Column("sku", sa.String(length=255), nullable=False),
        sa.Column("qty", sa.Integer(), nullable=False),
        sa.Column("age", sa.BigInteger(), nullable=False),
        sa.Column("batchref", sa.String(length=255), nullable=True),
        sa.Column("promised_at", sa.BigInteger(), nullable=True),
        sa.Column("told", sa.Boolean(), nullable=False),
        sa.CheckConstraint(
            "(batchref IS NULL) = (promised_at IS NULL)",
            name=op.f("ck_allocations_allocated_or_waiting"),
        ),
        sa.CheckConstraint("qty >= 1", name=op.f("ck_allocations_qty_positive")),
        sa.ForeignKeyConstraint(
            ["batchref"], ["batches.batchref"], name=op.f("fk_allocations_batchref_batches")
        ),
        sa.ForeignKeyConstraint(
            ["sku"], ["products.sku"], name=op.f("fk_allocations_sku_products")
        ),
        sa.PrimaryKeyConstraint("orderid", "sku", name=op.f("pk_allocations")),
    )
    op.create_index(
        "ix_allocations_promised",
        "allocations",
        ["batchref", "promised_at"],
        unique=False,
        postgresql_where=sa.text("batchref IS NOT NULL"),
        sqlite_where=sa.text("batchref IS NOT NULL"),
    )
    op.create_index(
        "ix_allocations_untold",
        "allocations",
        ["sku", "age"],
        unique=False,
        postgresql_where=sa.text("batchref IS NULL AND NOT told"),
        sqlite_where=sa.text("batchref IS NULL AND told = 0"),
    )
    op.create_index(
        "ix_allocations_waiting",
        "allocations",
        ["sku", "qty", "age"],
        unique=False,
        postgresql_where=sa.text("batchref IS NULL"),
        sqlite_where=sa.text("batchref IS NULL"),
    )


def downgrade() -> None:

    op.drop_table("allocations")

    op.drop_table("batches")
    op.drop_table("products")

    op.drop_table("outbox")
    op.drop_table("commands")
