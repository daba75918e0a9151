"""Alembic's entry point."""

from allocation.messaging.migrations import run_steps

run_steps()
