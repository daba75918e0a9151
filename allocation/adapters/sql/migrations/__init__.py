"""The schema of the service's database; `allocation.messaging.migrations` runs its steps."""

import time
from collections.abc import Callable
from pathlib import Path

import structlog
from sqlalchemy import Engine

from allocation.adapters.sql import tables
from allocation.adapters.sql.database import NO_SCHEMA, engine
from allocation.messaging.migrations import Migrations

log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0  # seconds between two checks of the schema
SAY_EVERY = 30.0  # seconds between two log lines about what is missing

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


def wait_for_schema(
    made: Engine, wait: Callable[[float], object], stopped: Callable[[], bool]
) -> None:
    """Return once the database has the schema of this version or of a later one, or when stopped.

    `wait` is called with the seconds to wait. Logs what is missing at once, then every SAY_EVERY
    seconds. Keeps no connection open. Raises SQLAlchemyError if the database can't be reached.
    """
    said = -SAY_EVERY
    while _lacks_schema(made) and not stopped():
        if time.monotonic() - said >= SAY_EVERY:
            log.error(f"waiting: {NO_SCHEMA}")
            said = time.monotonic()
        wait(LOOK_EVERY)


def _lacks_schema(made: Engine) -> bool:
    try:
        with made.connect() as connection:
            return is_behind(connection)
    finally:
        made.dispose()  # the worker forks processes, which must not inherit a connection
