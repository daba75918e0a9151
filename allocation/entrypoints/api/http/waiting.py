"""Wait for the outcomes of commands, as a caller asks by `Prefer: wait=N` (RFC 7240)."""

import threading
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Connection

from allocation.adapters.sql.notifications import DECIDED_CHANNEL
from allocation.entrypoints.api.http.commit_listener import CommitListener, Pause
from allocation.messaging.database import is_postgresql
from allocation.views import Json, progress

LONGEST = 30
"""Seconds that a request waits at most."""

_ON_POSTGRESQL = Pause(least=0.0, most=0.3)  # notifications get lost, and older workers send none
_ON_SQLITE = Pause(least=0.0, most=0.005)


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The commands that are decided, as `progress.command` returns them; the others are pending.

    `waited`: the request waited until all were decided, or for the whole time that it asked for.
    """

    decided: Mapping[UUID, Json]
    waited: bool


class Expected:
    """The outcomes that one request expects, as they come."""

    def __init__(self, ids: Collection[UUID]) -> None:
        self.pending = set(ids)
        self._decided: dict[UUID, Json] = {}
        self._over = threading.Event()

    def add(self, command_id: UUID, outcome: Json) -> None:
        self._decided[command_id] = outcome
        self.pending.discard(command_id)
        if not self.pending:
            self._over.set()

    def give_up(self) -> None:
        """Wait no longer."""
        self._over.set()

    def wait(self, seconds: float) -> Outcomes:
        """The outcomes, once all commands are decided or the time is over."""
        gave_up = self._over.wait(seconds) and bool(self.pending)
        return Outcomes(dict(self._decided), waited=not gave_up)


class OutcomeWaiter:
    """Has requests wait for outcomes, all of which one query asks for after a commit.

    At most `places` requests of this process wait at once, each in a thread, without a connection
    to the database. They wait while the database can't be reached, too: their commands are safe.
    """

    channel = DECIDED_CHANNEL

    def __init__(self, places: int, commits: CommitListener) -> None:
        self._places = threading.Semaphore(places)
        self._commits = commits
        commits.add(self)
        self._lock = threading.Lock()
        self._expected: dict[UUID, list[Expected]] = defaultdict(list)
        self._stopping = False
        self.waiting = 0
        """Requests that wait now."""

    def stop(self) -> None:
        """Wait no more: the process is about to end."""
        # Without the lock, which the thread that a signal interrupts may hold.
        self._stopping = True
        for each in list(self._expected.values()):
            for expected in list(each):
                expected.give_up()

    @contextmanager
    def expecting(self, commands: Collection[UUID]) -> Iterator[Expected | None]:
        """Expect outcomes, from before the commands are accepted on: then none is missed.

        None if the process stops, or if there is no place to wait. Commands that were accepted
        before may be decided already: see `tell`.
        """
        if self._stopping or not self._places.acquire(blocking=False):
            yield None
            return
        expected = Expected(commands)
        with self._lock:
            for command_id in commands:
                self._expected[command_id].append(expected)
            self.waiting += 1
        if self._stopping:
            expected.give_up()
        self._commits.listen()
        try:
            yield expected
        finally:
            with self._lock:
                for command_id in expected.pending:
                    self._forget(command_id, expected)
                self.waiting -= 1
            self._places.release()

    @property
    def is_wanted(self) -> bool:
        return bool(self._expected)

    def look(self, connection: Connection) -> Pause:
        if pending := list(self._expected):
            with connection.begin():
                self.tell(progress.decided(connection, pending))
        return _ON_POSTGRESQL if is_postgresql(connection) else _ON_SQLITE

    def tell(self, decided: Mapping[UUID, Json]) -> None:
        """Hand these outcomes to the requests that expect them."""
        with self._lock:
            for command_id, outcome in decided.items():
                for expected in self._expected.pop(command_id, ()):
                    expected.add(command_id, outcome)

    def _forget(self, command_id: UUID, expected: Expected) -> None:
        self._expected[command_id].remove(expected)
        if not self._expected[command_id]:
            del self._expected[command_id]
