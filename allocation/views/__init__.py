"""SQL answers to reads: plain rows made into JSON, no objects of the domain."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import Connection, Engine

from allocation.messaging.database import is_postgresql

Json = dict[str, Any]


@contextmanager
def snapshot(engine: Engine) -> Iterator[Connection]:
    """A connection on which every statement sees the same moment."""
    options: Json = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect() as connection:
        if is_postgresql(connection):
            connection = connection.execution_options(**options)
        yield connection
