"""The schema of the service's database; `allocation.messaging.migrations` runs its steps."""

from pathlib import Path

from allocation.adapters.sql import tables
from allocation.adapters.sql.database import engine
from allocation.messaging.migrations import Migrations

MIGRATIONS = Migrations(Path(__file__).parent, tables.metadata, lock=4_130_519_771)

newest = MIGRATIONS.newest
is_behind = MIGRATIONS.is_behind
drift = MIGRATIONS.drift


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`; see `Migrations.upgrade`."""
    made = engine(url)
    try:
        MIGRATIONS.upgrade(made, revision)
    finally:
        made.dispose()


def downgrade(url: str, revision: str = "base") -> None:
    """Take the database back to `revision`. What only newer tables hold is lost."""
    made = engine(url)
    try:
        MIGRATIONS.downgrade(made, revision)
    finally:
        made.dispose()
