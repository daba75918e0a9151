"""Wait for the outcomes of commands, as a caller asks by `Prefer: wait=N` (RFC 7240)."""

import threading
import time
from collections.abc import Collection
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from allocation.views import Json, progress

LONGEST = 30
"""Seconds that a request waits at most."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Outcomes:
    """The commands that are decided, as `progress.command` returns them; the others are pending.

    `waited`: the request waited until all were decided, or for the whole time that it asked for.
    """

    decided: dict[UUID, Json]
    waited: bool


class OutcomeWaiter:
    """Waits for outcomes by asking the database, holding no connection between two questions.

    At most `places` requests of this process wait at once; one more is answered without waiting,
    so that slow commands never take all the threads that answer other requests.
    """

    def __init__(self, engine: Engine, places: int) -> None:
        self._engine = engine
        self._places = threading.BoundedSemaphore(places)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Wait no more: the process is about to end."""
        self._stopping.set()

    def outcomes(self, commands: Collection[UUID], seconds: float) -> Outcomes:
        """The outcomes, once all commands are decided or the time is over.

        If the database does not respond, these are the outcomes known so far: the commands are
        safe, the other outcomes unknown.
        """
        decided: dict[UUID, Json] = {}
        if not self._places.acquire(blocking=False):
            return Outcomes(decided, waited=False)
        try:
            waited = self._poll(set(commands), decided, time.monotonic() + seconds)
        except SQLAlchemyError:
            waited = False
        finally:
            self._places.release()
        return Outcomes(decided, waited)

    def _poll(self, pending: set[UUID], decided: dict[UUID, Json], deadline: float) -> bool:
        """Move what is decided from `pending` to `decided`; False if the process stops."""
        pause = _FIRST_PAUSE
        while True:
            with self._engine.connect() as connection:
                decided.update(progress.decided(connection, pending))
            pending -= decided.keys()
            left = deadline - time.monotonic()
            if not pending or left <= 0:
                return True
            if self._stopping.wait(min(pause, left)):
                return False
            pause = min(pause * 1.5, _LONGEST_PAUSE)
