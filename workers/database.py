"""A subscriber's own database: PostgreSQL or SQLite, and its migrations."""

import sqlite3
from collections.abc import Callable
from pathlib import Path

from alembic import command
from alembic.config import Config
from sqlalchemy import Connection, Engine, Table, create_engine, event, make_url, text
from sqlalchemy.dialects import postgresql, sqlite

_LOCK = 4_130_519_773  # any number that no other program locks in the same database


def engine(url: str) -> Engine:
    """An engine whose transactions lock what they change before they read it."""
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg2"
    parsed = make_url(scheme + separator + rest)
    if parsed.get_backend_name() != "sqlite":
        return create_engine(
            parsed,
            isolation_level="READ COMMITTED",
            pool_pre_ping=True,
            connect_args={"connect_timeout": 5},
        )
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    made = create_engine(parsed, connect_args={"timeout": 30})
    event.listen(made, "connect", _prepare_sqlite)
    event.listen(made, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return made


def insert(connection: Connection, table: Table) -> postgresql.Insert | sqlite.Insert:
    """An INSERT that knows ON CONFLICT."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    return dialect.insert(table)


def upgrade(made: Engine, migrations: Path, version_table: str, revision: str = "head") -> None:
    """Bring the tables to `revision`; one process at a time, and safe to repeat."""
    _migrate(made, migrations, version_table, revision, command.upgrade)


def downgrade(made: Engine, migrations: Path, version_table: str, revision: str = "base") -> None:
    """Take the tables back to `revision`."""
    _migrate(made, migrations, version_table, revision, command.downgrade)


def _migrate(
    made: Engine,
    migrations: Path,
    version_table: str,
    revision: str,
    step: Callable[[Config, str], None],
) -> None:
    with made.begin() as connection:
        if connection.dialect.name == "postgresql":
            connection.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK})"))
        config = Config()
        config.set_main_option("script_location", str(migrations))
        config.attributes |= {"connection": connection, "version_table": version_table}
        step(config, revision)


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
