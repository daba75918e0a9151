"""New events, as the process's listener to commits reads them while there are streams."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from sqlalchemy import Connection, Row

from allocation.adapters.sql.outbox import NOTIFY_CHANNEL
from allocation.entrypoints.api.http.commit_listener import CommitListener, Pause
from allocation.entrypoints.api.http.problems import Problem
from allocation.messaging.database import is_postgresql
from allocation.views.live_events import CHUNK, Watch

_AT_MOST_EVERY = 0.02  # seconds: under load commits come all the time
_AT_ONCE = Pause(0.0, 0.0)
_SOON = Pause(_AT_MOST_EVERY, _AT_MOST_EVERY)
_ON_POSTGRESQL = Pause(least=_AT_MOST_EVERY, most=0.3)
_ON_SQLITE = Pause(least=_AT_MOST_EVERY, most=0.07)
_STEP = 0.3  # seconds between two looks whether the streams are to end
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

    channel = NOTIFY_CHANNEL

    def __init__(self, places: int, commits: CommitListener) -> None:
        self._places = places
        self._commits = commits
        commits.add(self)
        self._listeners = 0
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._watch = Watch()
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
        self._commits.listen()

    def leave(self) -> None:
        with self._changed:
            self._listeners -= 1
            if not self._listeners:
                # Without a stream nothing is read: the next one begins anew.
                self._watch, self._settled = Watch(), None
                self._recent.clear()

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
            self._changed.wait(min(left, _STEP))

    @property
    def is_wanted(self) -> bool:
        return self._listeners > 0 and not self.stopped

    def look(self, connection: Connection) -> Pause:
        watch = self._watch
        rows = watch.look(connection)
        with self._changed:
            if watch is self._watch and (rows or watch.settled != self._settled):
                self._recent.extend(rows)
                self._next += len(rows)
                self._settled = watch.settled
                self._changed.notify_all()
        if len(rows) == CHUNK:
            return _AT_ONCE
        if watch.waits:
            return _SOON
        return _ON_POSTGRESQL if is_postgresql(connection) else _ON_SQLITE
