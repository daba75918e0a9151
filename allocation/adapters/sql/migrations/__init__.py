"""The database's schema, step by step: applied, taken back and compared by Alembic."""

import time
from collections.abc import Callable
from pathlib import Path

import structlog
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Engine, inspect, text

from allocation.adapters.sql import tables
from allocation.adapters.sql.database import NO_SCHEMA, engine, is_postgresql

log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0  # seconds between two checks of the schema
SAY_EVERY = 30.0  # seconds between two log lines about what is missing

# Any number, as long as no other program locks it in the same database.
_LOCK = 4_130_519_771


def upgrade(url: str, revision: str = "head") -> None:
    """Bring the database to `revision`; safe to run again, and at the same time as another."""
    _run(url, lambda config: command.upgrade(config, revision))


def downgrade(url: str, revision: str = "base") -> None:
    """Take the database back to `revision`. What only newer tables hold is lost."""
    _run(url, lambda config: command.downgrade(config, revision))


def newest() -> str:
    """The revision that `upgrade` leads to."""
    return ScriptDirectory.from_config(_config()).get_current_head() or ""


def is_behind(connection: Connection) -> bool:
    """Whether the database has no schema, or that of an earlier version.

    A later version is not behind: an upgrade migrates the database before it replaces processes.
    """
    known = {each.revision for each in ScriptDirectory.from_config(_config()).walk_revisions()}
    # Not by Alembic's context, which writes two log lines on each call.
    if not inspect(connection).has_table("alembic_version"):
        return True
    found = set(connection.scalars(text("SELECT version_num FROM alembic_version")))
    return not found or (newest() not in found and found <= known)


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


def drift(connection: Connection) -> list[object]:
    """In what the database differs from `tables.metadata`; empty when it does not."""
    context = MigrationContext.configure(connection, opts={"compare_type": True})
    return list(compare_metadata(context, tables.metadata))


def _config() -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    return config


def _run(url: str, step: Callable[[Config], None]) -> None:
    made = engine(url)
    try:
        with made.execution_options(sqlite_begin="IMMEDIATE").begin() as connection:
            if is_postgresql(connection):
                connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
            config = _config()
            config.attributes["connection"] = connection
            step(config)
    finally:
        made.dispose()
