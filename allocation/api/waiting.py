"""`Prefer: wait=N` (RFC 7240): wait a little for the outcome of what was accepted."""

import threading
import time
from collections.abc import Collection
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from allocation import bootstrap
from allocation.views import Json, progress

LONGEST = 30
"""Seconds that a request waits at most."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Preference:
    """How long to wait for the outcome, in seconds (None: not at all), and what was honoured."""

    wait: int | None
    applied: str | None


def preference(header: str) -> Preference:
    """What the Prefer header asks. The first of a name counts; what makes no sense is ignored."""
    asked: dict[str, str] = {}
    for part in header.split(","):
        name, _, value = part.partition(";")[0].partition("=")
        asked.setdefault(name.strip().lower(), value.strip().strip('"'))
    applied = ["respond-async"] if asked.get("respond-async") == "" else []
    wait, seconds = None, asked.get("wait", "")
    if seconds.isascii() and seconds.isdigit():
        # Cut before it is counted: the digits may be endless.
        wait = min(int(seconds.lstrip("0")[:3] or "0"), LONGEST)
        applied.append(f"wait={wait}")
    return Preference(wait, ", ".join(applied) or None)


class OutcomeWaiter:
    """Waits for outcomes by asking the database, holding no connection between two questions.

    At most `places` requests of this process wait at once; one more is answered without waiting,
    so that slow commands never take all the threads that answer other requests.
    """

    def __init__(self, places: int) -> None:
        self._places = threading.BoundedSemaphore(places)
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Wait no more: the process is about to end."""
        self._stopping.set()

    def outcomes(self, commands: Collection[UUID], seconds: float) -> dict[UUID, Json]:
        """The commands as `progress.command` tells them, once all are decided or the time is over.

        Those that are still pending are left out. A database that gives no answer leaves out what
        it did not tell before: the commands are safe, their outcomes unknown.
        """
        decided: dict[UUID, Json] = {}
        if not self._places.acquire(blocking=False):
            return decided
        try:
            with suppress(SQLAlchemyError):
                self._poll(set(commands), decided, time.monotonic() + seconds)
        finally:
            self._places.release()
        return decided

    def _poll(self, pending: set[UUID], decided: dict[UUID, Json], deadline: float) -> None:
        """Move what is decided from `pending` to `decided`, until nothing is left to wait for."""
        pause = _FIRST_PAUSE
        while True:
            with bootstrap.engine(bootstrap.settings().database_url).connect() as connection:
                decided.update(progress.decided(connection, pending))
            pending -= decided.keys()
            left = deadline - time.monotonic()
            if not pending or left <= 0 or self._stopping.wait(min(pause, left)):
                return
            pause = min(pause * 1.5, _LONGEST_PAUSE)
