"""How the database is, answered in time even when it hangs."""

import threading
from concurrent.futures import Future
from concurrent.futures import TimeoutError as TookTooLong
from dataclasses import dataclass

import structlog
from sqlalchemy.exc import SQLAlchemyError

from allocation import bootstrap
from allocation.adapters import migrations
from allocation.views import progress
from allocation.views.progress import Backlog

log = structlog.get_logger(__name__)

PATIENCE = 2.0
"""Seconds that the database has to answer."""


@dataclass(frozen=True, slots=True)
class State:
    """`backlog` when the database answers and has our schema; else `trouble` says what is wrong."""

    backlog: Backlog | None
    trouble: str | None = None


class DatabaseState:
    """Asks in a thread of its own, one at a time: whoever asks meanwhile shares its answer.

    A database that accepts a connection and falls silent would hold the asking thread for
    minutes; that thread is left behind, and at most one of them.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: Future[State] | None = None

    def ask(self) -> State:
        with self._lock:
            if self._running is None or self._running.done():
                self._running = Future()
                threading.Thread(target=_answer, args=(self._running,), daemon=True).start()
            running = self._running
        try:
            return running.result(PATIENCE)
        except TookTooLong:
            return State(None, f"The database gave no answer in {PATIENCE:g} s.")


def _answer(future: Future[State]) -> None:
    state = State(None, "The database could not be asked; the log says why.")
    try:
        state = _look()
    except SQLAlchemyError as error:
        log.warning("the database can't be reached", error=str(error).partition("\n")[0])
        state = State(None, "The database can't be reached.")
    finally:
        future.set_result(state)


def _look() -> State:
    settings = bootstrap.settings()
    with bootstrap.engine(settings.database_url).connect() as connection:
        if not migrations.is_current(connection):
            return State(None, "The database lacks the schema of this version: allocation migrate.")
        return State(progress.backlog(connection, settings.resend_after))
