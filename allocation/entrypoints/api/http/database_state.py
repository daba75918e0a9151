"""The state of the database, known in time even if it hangs."""

import threading
import time
from collections.abc import Set
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from contextlib import suppress
from dataclasses import dataclass

import structlog
from flask import Flask, request
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from allocation.adapters.sql import migrations
from allocation.adapters.sql.database import NO_SCHEMA
from allocation.entrypoints.api.http.problems import no_schema
from allocation.views import progress
from allocation.views.progress import Backlog

log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two checks for a schema that is not there yet."""
TIMEOUT = 2.0
"""Seconds that the database has to answer."""


@dataclass(frozen=True, slots=True)
class State:
    """`backlog` when the database answers and has our schema; else `trouble` says what is wrong."""

    backlog: Backlog | None
    trouble: str | None = None


class DatabaseState:
    """Asks in a thread of its own, one at a time; concurrent callers share the answer.

    A database that accepts a connection and then hangs would block the thread for minutes; at most
    one such thread is left behind.
    """

    def __init__(self, engine: Engine, resend_after: float) -> None:
        self._engine = engine
        self._resend_after = resend_after
        self._lock = threading.Lock()
        self._running: Future[State] | None = None

    def ask(self) -> State:
        with self._lock:
            if self._running is None or self._running.done():
                self._running = Future()
                threading.Thread(target=self._answer, args=(self._running,), daemon=True).start()
            running = self._running
        try:
            return running.result(TIMEOUT)
        except TookTooLong:
            return State(None, f"The database did not respond within {TIMEOUT:g} s.")

    def _answer(self, future: Future[State]) -> None:
        state = State(None, "The query to the database failed; the log has the error.")
        try:
            state = self._look()
        except SQLAlchemyError as error:
            log.warning("the database can't be reached", error=str(error).partition("\n")[0])
            state = State(None, "The database can't be reached.")
        finally:
            future.set_result(state)

    def _look(self) -> State:
        with self._engine.connect() as connection:
            if migrations.is_behind(connection):
                return State(None, NO_SCHEMA)
            return State(progress.backlog(connection, self._resend_after))


class SchemaGate:
    """Refuses requests while the database has an earlier schema, or none.

    Checks the schema at most once in LOOK_EVERY seconds, and not again once it is there.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._is_there = False
        self._looked = 0.0

    def check(self) -> None:
        """Raise the Problem of a database without the schema of this version."""
        if self._is_there:
            return
        if time.monotonic() - self._looked > LOOK_EVERY:
            with suppress(SQLAlchemyError):  # if the database is away, the request itself says so
                with self._engine.connect() as connection:
                    self._is_there = not migrations.is_behind(connection)
                self._looked = time.monotonic()
        if not self._is_there and self._looked:
            raise no_schema()


def register(app: Flask, engine: Engine, opened: Set[str]) -> None:
    """Check every request of `app` that is not for one of the endpoints `opened`."""
    gate = SchemaGate(engine)

    @app.before_request
    def check() -> None:
        if request.endpoint not in opened:
            gate.check()
