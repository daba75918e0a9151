"""The service's database: its engine, its clock, and what its errors mean to a caller."""

import sqlite3
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Engine, Interval, func, literal
from sqlalchemy.exc import (
    DBAPIError,
    IntegrityError,
    InterfaceError,
    OperationalError,
    SQLAlchemyError,
)

from allocation.messaging import database
from allocation.messaging.database import is_postgresql
from allocation.service_layer.unit_of_work import (
    ConcurrentUpdate,
    SchemaMissing,
    StorageUnavailable,
    StorageUnusable,
)

# deadlock detected, serialization failure, lock not available
_CONFLICT_CODES = {"40P01", "40001", "55P03"}
# undefined table, undefined column
_NO_SCHEMA_CODES = {"42P01", "42703"}
_DISK_FULL_CODE = "53100"
# SQLite's codes for a full disk: it could not write, map or create one of its files.
_CANT_WRITE = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN)

NO_SCHEMA = "The database lacks the schema of this version: run `allocation migrate`."
DISK_FULL = "The database can't write: is its disk full? Free some space."


def engine(url: str, *, pool_size: int = 5) -> Engine:
    """The service's engine. On SQLite only units of work lock, with `sqlite_begin="IMMEDIATE"`."""
    return database.engine(
        url, pool_size=pool_size, application_name="allocation", sqlite_begin="DEFERRED"
    )


def clock(connection: Connection) -> datetime:
    """The current time of the database's clock, which all processes share, in UTC.

    For SQLite that is the clock of this machine.
    """
    if not is_postgresql(connection):
        return datetime.now(UTC)
    now: datetime = connection.exec_driver_sql("SELECT clock_timestamp()").scalar_one()
    return now.astimezone(UTC)


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
