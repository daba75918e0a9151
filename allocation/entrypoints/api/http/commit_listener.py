"""One thread of the process reads what commits bring, as long as a request wants it."""

import threading
import time
from collections.abc import Iterator, Set
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import structlog
from sqlalchemy import Connection, Engine
from sqlalchemy.exc import SQLAlchemyError

from allocation.adapters.sql.notifications import Notification, Wait, listen
from allocation.messaging import backoff
from allocation.messaging.database import is_postgresql

log = structlog.get_logger(__name__)

KEEP = 10.0
"""Seconds that the thread keeps its connection while no request wants anything."""

_TICK = 0.05
"""Seconds after which the thread notices, at the latest, that a reader is wanted."""


@dataclass(frozen=True, slots=True)
class Pause:
    """Seconds until a reader looks again: `least` after a commit of its channel, else `most`."""

    least: float
    most: float


class Reader(Protocol):
    """Reads what is new for the requests that want it."""

    @property
    def channel(self) -> str:
        """The channel that PostgreSQL notifies when a commit brings something new."""

    @property
    def is_wanted(self) -> bool: ...

    def look(self, connection: Connection) -> Pause:
        """Read what is new, and hand it to the requests; each statement is a transaction."""


class CommitListener:
    """Has its readers look after commits, one at a time, on one connection."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._readers: list[Reader] = []
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wanted_at = 0.0
        self._stopping = threading.Event()
        self._called = threading.Event()

    def add(self, reader: Reader) -> None:
        """Have this one look, too; before any is wanted."""
        self._readers.append(reader)

    def listen(self) -> None:
        """Run the thread; to be called once a reader is wanted."""
        with self._lock:
            if self._thread is None or not self._thread.is_alive():
                self._wanted_at = time.monotonic()
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
        self._called.set()

    def stop(self) -> None:
        """End the thread soon, and for good."""
        self._stopping.set()
        self._called.set()

    def _goes_on(self) -> bool:
        with self._lock:
            now = time.monotonic()
            if any(reader.is_wanted for reader in self._readers):
                self._wanted_at = now
            if self._stopping.is_set() or now > self._wanted_at + KEEP:
                self._thread = None
                return False
            return True

    def _run(self) -> None:
        failures = 0
        while self._goes_on():
            try:
                with self._connection() as (connection, wait):
                    turns = [_Turn(reader) for reader in self._readers]
                    while self._goes_on():
                        for turn in turns:
                            turn.take(connection)
                        failures = 0
                        notified = wait(min(_TICK, *(turn.seconds_left for turn in turns)))
                        for turn in turns:
                            turn.hear(notified)
            except SQLAlchemyError as error:
                failures += 1
                seconds = backoff.seconds(failures)
                log.warning(
                    "commits can't be read; the streams wait, and so do requests for outcomes",
                    error=str(error).partition("\n")[0],
                    seconds=round(seconds, 1),
                )
                self._stopping.wait(seconds)

    @contextmanager
    def _connection(self) -> Iterator[tuple[Connection, Wait]]:
        if not is_postgresql(self._engine):
            with self._engine.connect() as connection:
                yield connection, self._pause
            return
        options: dict[str, Any] = {"isolation_level": "AUTOCOMMIT"}
        with self._engine.connect().execution_options(**options) as connection:
            try:
                yield connection, listen(connection, *(each.channel for each in self._readers))
            finally:
                # Not back into the pool, as it is still listening.
                connection.invalidate()

    def _pause(self, seconds: float) -> Set[Notification]:
        # SQLite has no notifications: its readers poll.
        self._called.wait(seconds)
        self._called.clear()
        return frozenset()


class _Turn:
    """When a reader looks next; at once if it was not wanted until now."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._earliest = self._due = 0.0

    def take(self, connection: Connection) -> None:
        if not self._reader.is_wanted:
            self._due = 0.0
        elif (began := time.monotonic()) >= self._due:
            pause = self._reader.look(connection)
            now = time.monotonic()
            # A reader takes no more than half the time, however many commits and requests.
            self._earliest = now + max(pause.least, now - began)
            self._due = now + pause.most

    def hear(self, notified: Set[Notification]) -> None:
        if any(each.channel == self._reader.channel for each in notified):
            self._due = min(self._due, self._earliest)

    @property
    def seconds_left(self) -> float:
        if not self._reader.is_wanted:
            return _TICK
        return max(0.0, self._due - time.monotonic())
