"""One thread of the process reads new events, as long as there are streams."""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any

import structlog
from sqlalchemy import Connection, Engine, Row
from sqlalchemy.exc import SQLAlchemyError

from allocation.adapters.sql.outbox import Wait, woken
from allocation.entrypoints.api.http.problems import Problem
from allocation.messaging import backoff
from allocation.messaging.database import is_postgresql
from allocation.views.live_events import CHUNK, Watch

log = structlog.get_logger(__name__)

LOOK_EVERY = 0.3
"""Seconds between two queries, unless a commit asks for one earlier."""

_AT_MOST_EVERY = 0.02  # seconds: under load commits come all the time
_RECENT = 4 * CHUNK
"""Events that are held for streams that are behind; these read older ones from the database."""


@dataclass(frozen=True, slots=True)
class StartPosition:
    """From here a stream misses nothing: every event up to `settled` was committed before."""

    settled: int
    ticket: int


@dataclass(frozen=True, slots=True)
class NewEvents:
    """Events after a ticket. `lost`: more came than are held, so `rows` are not all of them."""

    rows: Sequence[Row[Any]]
    settled: int
    ticket: int
    lost: bool


class LiveEvents:
    """Events for at most `places` streams at once, in the order in which they got visible.

    The tickets count the events. Streams stay open while the database can't be reached.
    """

    def __init__(self, engine: Engine, places: int) -> None:
        self._engine = engine
        self._places = places
        self._listeners = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._watcher: threading.Thread | None = None
        self._settled: int | None = None
        self._recent: deque[Row[Any]] = deque(maxlen=_RECENT)
        self._next = 0

    def stop(self) -> None:
        """End all streams: the process is about to end."""
        self._stopping.set()

    @property
    def stopped(self) -> bool:
        return self._stopping.is_set()

    def pause(self, seconds: float) -> None:
        """Wait, or return early when it is stopped."""
        self._stopping.wait(seconds)

    def enter(self) -> None:
        """Count one more stream until `leave`. Raises a 503 if there are too many."""
        with self._changed:
            if self._listeners >= self._places:
                raise Problem(
                    503,
                    f"This process already serves {self._places} streams. Try again later.",
                    headers={"Retry-After": "5"},
                )
            self._listeners += 1
            if self._watcher is None or not self._watcher.is_alive():
                self._watcher = threading.Thread(target=self._watch, daemon=True)
                self._watcher.start()

    def leave(self) -> None:
        with self._changed:
            self._listeners -= 1

    def start_position(self, seconds: float) -> StartPosition | None:
        """Where a new stream begins; None if that is not known in time."""
        with self._changed:
            self._wait(lambda: self._settled is not None, seconds)
            return None if self._settled is None else StartPosition(self._settled, self._next)

    def news(self, since: NewEvents | StartPosition, seconds: float) -> NewEvents | None:
        """The events since then; None if there are none in time."""
        with self._changed:

            def came() -> bool:
                return self._next > since.ticket or self._settled != since.settled

            self._wait(came, seconds)
            if self._settled is None or not came():
                return None
            count = self._next - since.ticket
            rows = list(islice(self._recent, max(0, len(self._recent) - count), None))
            return NewEvents(rows, self._settled, self._next, lost=count > len(rows))

    def _wait(self, condition: Callable[[], bool], seconds: float) -> None:
        # In short steps: the handler of the signal to stop must not wait for this lock.
        deadline = time.monotonic() + seconds
        while not condition() and not self.stopped and (left := deadline - time.monotonic()) > 0:
            self._changed.wait(min(left, LOOK_EVERY))

    def _wanted(self) -> bool:
        with self._changed:
            if self._listeners and not self.stopped:
                return True
            # Without a stream nothing is read: the next one begins anew.
            self._watcher, self._settled = None, None
            self._recent.clear()
            return False

    def _watch(self) -> None:
        watch, failures = Watch(), 0
        while self._wanted():
            try:
                with _connection(self._engine) as (connection, wait):
                    while self._wanted():
                        rows = watch.look(connection)
                        failures = 0
                        self._publish(rows, watch.settled)
                        if len(rows) < CHUNK:
                            wait(_AT_MOST_EVERY if watch.waits else LOOK_EVERY)
                            self.pause(_AT_MOST_EVERY)
            except SQLAlchemyError as error:
                failures += 1
                seconds = backoff.seconds(failures)
                log.warning(
                    "events can't be read; the streams wait",
                    error=str(error).partition("\n")[0],
                    seconds=round(seconds, 1),
                )
                self.pause(seconds)

    def _publish(self, rows: Sequence[Row[Any]], settled: int | None) -> None:
        with self._changed:
            if rows or settled != self._settled:
                self._recent.extend(rows)
                self._next += len(rows)
                self._settled = settled
                self._changed.notify_all()


@contextmanager
def _connection(engine: Engine) -> Iterator[tuple[Connection, Wait]]:
    options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"} if is_postgresql(engine) else {}
    with engine.connect().execution_options(**options) as connection:
        try:
            yield connection, woken(connection)
        finally:
            # Not back into the pool, as it is still listening.
            connection.invalidate()
