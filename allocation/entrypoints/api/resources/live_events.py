"""One thread of the process watches for events, while anybody wants to hear of them."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog
from sqlalchemy import Connection, Row
from sqlalchemy.exc import SQLAlchemyError

from allocation import bootstrap
from allocation.adapters.sql.database import is_postgresql
from allocation.adapters.sql.outbox import Wait, woken
from allocation.entrypoints.api.http.problems import Problem
from allocation.messaging import backoff
from allocation.views.live_events import CHUNK, Watch

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.3
"""Seconds between two looks, if no commit calls for one before."""

_AT_MOST_EVERY = 0.02  # seconds: under load commits call all the time
_RECENT = 4 * CHUNK
"""Events that are held for listeners who are behind; the others they read from the database."""


@dataclass(frozen=True, slots=True)
class Place:
    """From where on a listener hears everything: all up to `settled` was there before."""

    settled: int
    ticket: int


@dataclass(frozen=True, slots=True)
class News:
    """What came after a ticket. `lost`: more than is held, and `rows` are not all of it."""

    rows: Sequence[Row[Any]]
    settled: int
    ticket: int
    lost: bool


class LiveEvents:
    """Events for at most `places` listeners at once, each in the order in which it got visible.

    The tickets count what came. While the database is away listeners stay, and wait.
    """

    def __init__(self, places: int) -> None:
        self._places = places
        self._listeners = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._settled: int | None = None
        self._recent: deque[Row[Any]] = deque(maxlen=_RECENT)
        self._next = 0

    def stop(self) -> None:
        """Let all listeners go: the process is about to end."""
        self._stopping.set()

    @property
    def stopped(self) -> bool:
        return self._stopping.is_set()

    def pause(self, seconds: float) -> None:
        """Wait so long, or until it is stopped."""
        self._stopping.wait(seconds)

    def enter(self) -> None:
        """One more listener, who has to leave; raises a 503 where there are too many."""
        with self._changed:
            if self._listeners >= self._places:
                raise Problem(
                    503,
                    f"This process serves {self._places} streams already. Try again later.",
                    headers={"Retry-After": "5"},
                )
            self._listeners += 1
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()

    def leave(self) -> None:
        with self._changed:
            self._listeners -= 1

    def place(self, seconds: float) -> Place | None:
        """Where a listener begins; None if that is not known in time."""
        with self._changed:
            self._wait(lambda: self._settled is not None, seconds)
            return None if self._settled is None else Place(self._settled, self._next)

    def news(self, since: News | Place, seconds: float) -> News | None:
        """What came since then; None when nothing did in time."""
        with self._changed:

            def came() -> bool:
                return self._next > since.ticket or self._settled != since.settled

            self._wait(came, seconds)
            if self._settled is None or not came():
                return None
            count = self._next - since.ticket
            rows = list(islice(self._recent, max(0, len(self._recent) - count), None))
            return News(rows, self._settled, self._next, lost=count > len(rows))

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        # In short steps: a stop comes by a signal, whose handler must not wait for this lock.
        deadline = time.monotonic() + seconds
        while not condition() and not self.stopped and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(min(left, LOOK_EVERY))

    def _wanted(self) -> bool:
        with self._changed:
            if self._listeners and not self.stopped:
                return True
            # What comes while nobody listens is not watched: the next one begins anew.
            self._watcher, self._settled = None, None
            self._recent.clear()
            return False

    def _watch(self) -> None:
        watch, failures = Watch(), 0
        while self._wanted():
            try:
                with _connection() as (connection, wait):
                    while self._wanted():
                        rows = watch.look(connection)
                        failures = 0
                        self._tell(rows, watch.settled)
                        if len(rows) < CHUNK:
                            wait(_AT_MOST_EVERY if watch.waits else LOOK_EVERY)
                            self.pause(_AT_MOST_EVERY)
            except SQLAlchemyError as error:
                failures += 1
                seconds = backoff.seconds(failures)
                log.warning(
                    "events can't be read, their listeners wait",
                    error=str(error).partition("\n")[0],
                    seconds=round(seconds, 1),
                )
                self.pause(seconds)

    def _tell(self, rows: Sequence[Row[Any]], settled: int | None) -> None:
        with self._changed:
            if rows or settled != self._settled:
                self._recent.extend(rows)
                self._next += len(rows)
                self._settled = settled
                self._changed.notify_all()


@contextmanager
def _connection() -> Iterator[tuple[Connection, Wait]]:
    engine = bootstrap.engine(bootstrap.settings().database_url)
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if is_postgresql(engine) else {}
    with engine.connect().execution_options(**options) as connection:
        try:
            yield connection, woken(connection)
        finally:
            # Not back into the pool: the LISTEN goes with the connection.
            connection.invalidate()
