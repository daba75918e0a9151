"""Engines for PostgreSQL and SQLite, and the few things that differ between the two."""

import select
import sqlite3
from math import inf
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import psycopg2
from psycopg2.extensions import ISOLATION_LEVEL_READ_COMMITTED, TRANSACTION_STATUS_IDLE
from sqlalchemy import (
    ARRAY,
    URL,
    ColumnElement,
    Connection,
    Engine,
    Table,
    any_,
    bindparam,
    create_engine,
    event,
    make_url,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import DBAPIError, InterfaceError, InvalidatePoolError, OperationalError
from sqlalchemy.pool import ConnectionPoolEntry

IDLE = 15
"""Seconds after which a pooled connection is asked whether it still works; see `_ping_doubtful`."""

T = TypeVar("T")

Insert = postgresql.Insert | sqlite.Insert

JOINED = {"joined": True}
"""Execution options with which BEGIN goes to PostgreSQL with the transaction's first statement.

psycopg2 sends it by itself, which costs a round trip. The last statement ends the transaction by
`; COMMIT`, and so saves another one; without that it is rolled back.
"""

Outage = (OperationalError, InterfaceError)
"""What is raised while the database can't be reached."""


def is_outage(error: BaseException) -> bool:
    """Whether the database can't be reached; otherwise the statement is at fault."""
    lost = isinstance(error, DBAPIError) and error.connection_invalidated
    return lost or isinstance(error, Outage)


def engine(
    url: str, *, pool_size: int = 5, application_name: str = "", sqlite_begin: str = "IMMEDIATE"
) -> Engine:
    """An engine that opens no connection yet; the first one creates the folder of a SQLite file.

    `postgres://` and `postgresql://` mean psycopg2. `pool_size` connections are kept open; a
    process needs about one per thread. SQLite has no row locks: with the default `sqlite_begin` a
    transaction takes the one write lock before it reads. The execution option of the same name
    overrides it.
    """
    parsed = _parsed(url)
    if parsed.get_backend_name() == "sqlite":
        return _sqlite_engine(parsed, pool_size, sqlite_begin)
    made = create_engine(
        parsed,
        # READ COMMITTED: what is read after a row's lock is the latest. A stricter level reads a
        # snapshot that is older than the lock, and promises the same stock twice.
        isolation_level="READ COMMITTED",
        # Many updates go to the server in one message.
        executemany_mode="values_plus_batch",
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            **({"application_name": application_name} if application_name else {}),
        },
        pool_size=pool_size,
    )
    _ping_doubtful(made)
    _join_transactions(made)
    return made


def is_postgresql(connectable: Engine | Connection) -> bool:
    """Whether this database has row locks, advisory locks and NOTIFY."""
    return connectable.dialect.name == "postgresql"


def insert_into(table: Table, dialect: str) -> Insert:
    """An INSERT that knows ON CONFLICT."""
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


def among(column: ColumnElement[T], values: str, dialect: str) -> ColumnElement[bool]:
    """Whether the column is one of the list that is the parameter `values`."""
    if dialect == "postgresql":  # as one array: the statement is the same whatever its length
        return column == any_(bindparam(values, type_=ARRAY(column.type)))
    return column.in_(bindparam(values, expanding=True))


def _parsed(url: str) -> URL:
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg2"
    parsed = make_url(scheme + separator + rest)
    if "sslrootcert" in parsed.query and "sslmode" not in parsed.query:
        # Naming an authority asks for a verified server; libpq alone would connect without.
        parsed = parsed.update_query_dict({"sslmode": "verify-full"})
    return parsed


def _sqlite_engine(url: URL, pool_size: int, begin: str) -> Engine:
    made = create_engine(url, connect_args={"timeout": 30}, pool_size=pool_size)

    @event.listens_for(made, "do_connect")
    def make_folder(*_: object) -> None:
        if url.database and url.database != ":memory:":
            Path(url.database).parent.mkdir(parents=True, exist_ok=True)

    @event.listens_for(made, "connect")
    def prepare(connection: sqlite3.Connection, _: object) -> None:
        # The driver's own transactions begin too late to lock; `begin_transaction` replaces them.
        connection.isolation_level = None
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=NORMAL")
        connection.execute("PRAGMA foreign_keys=ON")

    @event.listens_for(made, "begin")
    def begin_transaction(connection: Connection) -> None:
        mode = connection.get_execution_options().get("sqlite_begin", begin)
        connection.exec_driver_sql(f"BEGIN {mode}")

    return made


def _join_transactions(engine: Engine) -> None:
    """Carry JOINED out."""

    @event.listens_for(engine, "engine_connect")
    def leave_it_to_us(connection: Connection) -> None:
        if connection.get_execution_options().get("joined"):
            driver: Any = connection.connection.driver_connection
            connection.info["joined"] = True  # first: whatever happens, it is undone
            # In this order: otherwise psycopg2 tells the server of the level, here and at the end.
            driver.isolation_level = None
            driver.autocommit = True

    @event.listens_for(engine, "before_cursor_execute", retval=True)
    def begin(
        connection: Connection,
        cursor: Any,
        statement: str,
        parameters: Any,
        _context: object,
        _executemany: bool,
    ) -> tuple[str, Any]:
        if connection.get_execution_options().get("joined") and _is_idle(cursor.connection):
            statement = f"BEGIN ISOLATION LEVEL READ COMMITTED; {statement}"
        return statement, parameters

    @event.listens_for(engine, "reset")
    def roll_back(driver: Any, record: ConnectionPoolEntry, _state: object) -> None:
        if record.info.pop("joined", False):
            if not _is_idle(driver):
                with driver.cursor() as cursor:
                    cursor.execute("ROLLBACK")
            driver.autocommit = False
            driver.isolation_level = ISOLATION_LEVEL_READ_COMMITTED


def _is_idle(connection: Any) -> bool:
    """Whether psycopg2's connection is in no transaction, whoever began it."""
    return bool(connection.get_transaction_status() == TRANSACTION_STATUS_IDLE)


def _ping_doubtful(engine: Engine) -> None:
    """Ask a doubtful connection whether it still works; the pool replaces one that doesn't.

    Doubtful is one that lay idle, or that the server has written to since: it writes before it ends
    a connection. `pool_pre_ping` would ask at each use, which costs a command a round trip.
    """

    @event.listens_for(engine, "checkin")
    def note_use(_connection: object, record: ConnectionPoolEntry) -> None:
        record.info["used"] = monotonic()

    @event.listens_for(engine, "checkout")
    def check(connection: DBAPIConnection, record: ConnectionPoolEntry, _proxy: object) -> None:
        if monotonic() < record.info.get("used", inf) + IDLE and not _is_readable(connection):
            return
        try:
            engine.dialect.do_ping(connection)
        except psycopg2.Error as error:
            raise InvalidatePoolError from error


def _is_readable(connection: Any) -> bool:
    try:
        poller = select.poll()
        poller.register(connection.fileno(), select.POLLIN)
        return bool(poller.poll(0))
    except psycopg2.Error:  # it is closed: the ping says so, too
        return True
