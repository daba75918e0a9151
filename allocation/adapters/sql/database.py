"""Engines for PostgreSQL and SQLite, and what their errors mean to a caller."""

import sqlite3
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from time import monotonic
from typing import TypeVar

import psycopg2
from sqlalchemy import (
    ARRAY,
    URL,
    ColumnElement,
    Connection,
    Engine,
    Interval,
    any_,
    bindparam,
    create_engine,
    event,
    func,
    literal,
    make_url,
)
from sqlalchemy.engine.interfaces import DBAPIConnection
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    InvalidatePoolError,
    OperationalError,
    SQLAlchemyError,
)
from sqlalchemy.pool import ConnectionPoolEntry

from allocation.service_layer.unit_of_work import (
    ConcurrentUpdate,
    SchemaMissing,
    StorageUnavailable,
    StorageUnusable,
)

IDLE = 0.25
"""Seconds after which a pooled connection is asked whether it still works."""

T = TypeVar("T")

# deadlock detected, serialization failure, lock not available
_CONFLICT_CODES = {"40P01", "40001", "55P03"}
# undefined table, undefined column
_NO_SCHEMA_CODES = {"42P01", "42703"}
_DISK_FULL_CODE = "53100"
# SQLite's codes for a full disk: it could not write, map or create one of its files.
_CANT_WRITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)

NO_SCHEMA = "The database lacks the schema of this version: run `allocation migrate`."
DISK_FULL = "The database can't write: is its disk full? Free some space."


def normalise_url(url: str) -> str:
    """`postgres://` and `postgresql://` mean psycopg2 here; any other URL stays as it is."""
    scheme, separator, rest = url.partition("://")
    if scheme in ("postgres", "postgresql"):
        scheme = "postgresql+psycopg2"
    return scheme + separator + rest


def verified(url: URL) -> URL:
    """Who names an authority (`sslrootcert`) wants the server's certificate and name verified.

    libpq by itself would connect without, unless `sslmode` says so.
    """
    if "sslrootcert" in url.query and "sslmode" not in url.query:
        return url.update_query_dict({"sslmode": "verify-full"})
    return url


def engine(url: str, *, pool_size: int = 5) -> Engine:
    """An engine that opens no connection yet; the first one creates the folder of a SQLite file.

    `pool_size` connections are kept open; a process needs about one per thread.
    """
    parsed = verified(make_url(normalise_url(url)))
    if parsed.get_backend_name() == "sqlite":
        made = create_engine(parsed, connect_args={"timeout": 30}, pool_size=pool_size)
        if parsed.database and parsed.database != ":memory:":
            folder = Path(parsed.database).parent

            @event.listens_for(made, "do_connect")
            def make_folder(*_arguments: object) -> None:
                folder.mkdir(parents=True, exist_ok=True)

        event.listen(made, "connect", _prepare_sqlite)
        event.listen(made, "begin", _begin_sqlite)
        return made
    made = create_engine(
        parsed,
        # READ COMMITTED: what is read after the product's lock is the latest. A stricter level
        # reads a snapshot older than the lock, and oversells.
        isolation_level="READ COMMITTED",
        executemany_mode="values_plus_batch",
        connect_args={
            "connect_timeout": 5,
            "keepalives_idle": 15,
            "keepalives_interval": 5,
            "keepalives_count": 3,
            "application_name": "allocation",
        },
        pool_size=pool_size,
    )
    _ping_idle(made)
    return made


def is_postgresql(connectable: Engine | Connection) -> bool:
    """Whether this database has row locks, advisory locks and NOTIFY."""
    return connectable.dialect.name == "postgresql"


def clock(connection: Connection) -> datetime:
    """The current time of the database's clock, which all processes share, in UTC.

    For SQLite that is the clock of this machine.
    """
    if not is_postgresql(connection):
        return datetime.now(UTC)
    now: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return now.astimezone(UTC)


def among(column: ColumnElement[T], values: str, dialect: str) -> ColumnElement[bool]:
    """Whether the column is one of many: of those in the list that is the parameter `values`."""
    if dialect == "postgresql":  # as one array: the statement is the same however many they are
        return column == any_(bindparam(values, type_=ARRAY(column.type)))
    return column.in_(bindparam(values, expanding=True))


def ago(connection: Connection, seconds: float) -> ColumnElement[datetime]:
    """The time `seconds` ago, by the database's clock."""
    if is_postgresql(connection):
        # Not clock_timestamp(), which changes within a statement: no index could be used.
        return func.now() - literal(timedelta(seconds=seconds), Interval())
    return literal(datetime.now(UTC) - timedelta(seconds=seconds))


def translated(error: SQLAlchemyError) -> Exception:
    """The port's exception for a database error, or the error itself when it is a fault of ours."""
    if isinstance(error, IntegrityError):
        return ConcurrentUpdate(str(error))
    if isinstance(error, DBAPIError):
        code = getattr(error.orig, "pgcode", None)
        if code in _NO_SCHEMA_CODES or _lacks_schema(error.orig):
            return SchemaMissing(f"{NO_SCHEMA} ({_first_line(error)})")
        if code == _DISK_FULL_CODE or _sqlite_code(error.orig) in _CANT_WRITE:
            return StorageUnusable(f"{DISK_FULL} ({_first_line(error)})")
        if code in _CONFLICT_CODES or _is_busy(error.orig):
            return ConcurrentUpdate(str(error))
        if error.connection_invalidated or isinstance(error, (OperationalError, InterfaceError)):
            return StorageUnavailable(str(error))
    return error


def _is_busy(error: BaseException | None) -> bool:
    return _sqlite_code(error) in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _sqlite_code(error: BaseException | None) -> int:
    # The code's lowest byte says what; the rest says more: a snapshot out of date, a recovery.
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _lacks_schema(error: BaseException | None) -> bool:
    said = ("no such table: ", "no such column: ", " has no column named ")
    return isinstance(error, sqlite3.OperationalError) and any(part in str(error) for part in said)


def _first_line(error: DBAPIError) -> str:
    return str(error.orig).partition("\n")[0]


def _ping_idle(engine: Engine) -> None:
    """Ask a connection that lay idle whether it still works; the pool replaces one that doesn't.

    `pool_pre_ping` would ask at each use, which costs an accepted command one round trip in six.
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
    # The driver's own transactions begin too late to lock; `_begin_sqlite` begins them instead.
    connection.isolation_level = None
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=NORMAL")
    connection.execute("PRAGMA foreign_keys=ON")


def _begin_sqlite(connection: Connection) -> None:
    # A unit of work takes the one write lock before it reads: SQLite has no row locks.
    mode = connection.get_execution_options().get("sqlite_begin", "DEFERRED")
    connection.exec_driver_sql(f"BEGIN {mode}")
