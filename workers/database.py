"""A subscriber's own database: PostgreSQL or SQLite, and its migrations."""

import sqlite3
import threading
from collections.abc import Callable
from math import inf
from pathlib import Path
from time import monotonic
from typing import TypeVar

import psycopg2
import structlog
from alembic import command
from alembic.config import Config
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Engine,
    Table,
    any_,
    bindparam,
    create_engine,
    event,
    make_url,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

from allocation.messaging import backoff

log = structlog.get_logger(__name__)

IDLE = 0.25
"""Seconds after which a pooled connection is asked whether it still works; see `_ping_idle`."""

T = TypeVar("T")

Insert = postgresql.Insert | sqlite.Insert

Outage = (OperationalError, InterfaceError)
"""What is raised while the database can't be reached."""

_LOCK = 4_130_519_773  # any number that no other program locks in the same database


def engine(url: str) -> Engine:
    """An engine whose transactions lock what they change before they read it."""
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg2"
    parsed = make_url(scheme + separator + rest)
    if "sslrootcert" in parsed.query and "sslmode" not in parsed.query:
        # Who names an authority wants to be sure of the server; libpq would connect without.
        parsed = parsed.update_query_dict({"sslmode": "verify-full"})
    if parsed.get_backend_name() != "sqlite":
        made = create_engine(
            parsed,
            isolation_level="READ COMMITTED",
            # Many updates go to the server in one message.
            executemany_mode="values_plus_batch",
            connect_args={"connect_timeout": 5},
        )
        _ping_idle(made)
        return made
    if parsed.database:
        Path(parsed.database).parent.mkdir(parents=True, exist_ok=True)
    made = create_engine(parsed, connect_args={"timeout": 30})
    event.listen(made, "connect", _prepare_sqlite)
    event.listen(made, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return made


def insert_into(table: Table, dialect: str) -> Insert:
    """An INSERT that knows ON CONFLICT."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def among(column: ColumnElement[T], values: str, dialect: str) -> ColumnElement[bool]:
    """Whether the column is one of many: of those in the list that is the parameter `values`."""
    if dialect == "postgresql":  # as one array: the statement is the same however many they are
        return column == any_(bindparam(values, type_=ARRAY(column.type)))
    return column.in_(bindparam(values, expanding=True))


def is_outage(error: BaseException) -> bool:
    """Whether the database is away; else the fault lies with what it was asked."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or isinstance(error, Outage)


def upgrade_when_there(
    made: Engine, migrations: Path, version_table: str, stop: threading.Event
) -> None:
    """Bring the tables to the newest revision as soon as the database can be reached.

    Returns without it when `stop` is set.
    """
    failures = 0
    while not stop.is_set():
        try:
            upgrade(made, migrations, version_table)
            return
        except Outage as error:
            failures += 1
            pause = backoff.seconds(failures)
            log.warning(
                "the database can't be reached",
                error=str(error.orig),
                retry_in_seconds=round(pause, 1),
            )
            stop.wait(pause)


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


def _ping_idle(engine: Engine) -> None:
    """Ask a connection that lay idle whether it still works; the pool replaces one that doesn't.

    `pool_pre_ping` would ask at each use, which costs a batch one message in ten.
    """

    @event.listens_for(engine, "checkin")
    def note_use(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info["used"] = monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if monotonic() < record.info.get("used", inf) + IDLE:
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg2.Error as error:
            raise InvalidatePoolError from error


def _prepare_sqlite(connection: sqlite3.Connection, _record: object) -> None:
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
