"""Alembic's entry: runs the steps on the connection that `migrations._run` opened."""

from alembic import context

from allocation.adapters.sql import tables

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=tables.metadata,
    render_as_batch=True,
)
with context.begin_transaction():
    context.run_migrations()
