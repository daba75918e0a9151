"""The limit of the embedded default: `one_transaction` on SQLite, by the standard library alone.

The service's engine opens the connection, so journal and synchronous mode are the service's own.
SQLite has one writer at a time: more connections would only wait for each other. Run as a process:
`python -m tests.bench.one_sqlite_transaction URL`.
"""

import sqlite3
import sys
import time
from datetime import datetime
from typing import Any
from uuid import UUID

from allocation.adapters.sql import database
from tests.bench import one_transaction
from tests.bench.helper import serve
from tests.bench.one_transaction import Command, prepare

_STATEMENTS = {
    statement: statement.replace("FOR UPDATE", "").replace("%s", "?")
    for statement in vars(one_transaction).values()
    if isinstance(statement, str)
}


class Cursor:
    """Takes the statements of `one_transaction`; nobody listens on SQLite, so none is notified."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._cursor = connection.cursor()
        self.fetchone = self._cursor.fetchone

    def execute(self, statement: str, parameters: tuple[Any, ...] = ()) -> None:
        if statement is not one_transaction.NOTIFY:
            self._cursor.execute(_STATEMENTS[statement], parameters)


def run_all(connection: sqlite3.Connection, commands: list[Command]) -> float:
    """Each command, and its commit; seconds for all of them."""
    cursor = Cursor(connection)
    begun = time.perf_counter()
    for command in commands:
        connection.execute("BEGIN IMMEDIATE")
        one_transaction.allocate(cursor, command)
        connection.execute("COMMIT")
    return time.perf_counter() - begun


def main(url: str) -> None:
    sqlite3.register_adapter(datetime, lambda at: at.replace(tzinfo=None).isoformat(" "))
    opened = database.engine(url).raw_connection()
    connection = opened.driver_connection
    assert isinstance(connection, sqlite3.Connection)
    work: list[Command] = []

    def take(prefix: str, number: int, skus: list[str]) -> int:
        work[:] = [_stored(command) for command in prepare(prefix, number, skus)]
        return len(work)

    serve(prepare=take, run=lambda: run_all(connection, work))


def _stored(command: Command) -> Command:
    """The command with its ids as SQLite stores them."""
    return command._replace(id=UUID(command.id).hex, event_id=UUID(command.event_id).hex)


if __name__ == "__main__":
    main(sys.argv[1])
