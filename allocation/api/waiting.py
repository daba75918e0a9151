"""`Prefer: wait=N` (RFC 7240): wait a little for the outcome of a command."""

import threading
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from sqlalchemy.exc import SQLAlchemyError

from allocation import bootstrap, views
from allocation.views import Json

LONGEST = 30
"""Seconds that a request waits at most."""

_FIRST_PAUSE, _LONGEST_PAUSE = 0.01, 0.25  # seconds


@dataclass(frozen=True, slots=True)
class Preference:
    """How long to wait for the outcome, in seconds (None: not at all), and what was honoured."""

    wait: int | None
    applied: str | None


def preference(headers: Iterable[str]) -> Preference:
    """What the Prefer headers ask. The first of a name counts; what makes no sense is ignored."""
    asked: dict[str, str] = {}
    for header in headers:
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

    def outcome(self, command_id: UUID, seconds: float) -> Json | None:
        """The command as `views.command` tells it once it is decided; None when that took longer.

        A database that gives no answer means None too: the command is safe, its outcome unknown.
        """
        if not self._places.acquire(blocking=False):
            return None
        try:
            with suppress(SQLAlchemyError):
                return self._poll(command_id, time.monotonic() + seconds)
        finally:
            self._places.release()
        return None

    def _poll(self, command_id: UUID, deadline: float) -> Json | None:
        pause = _FIRST_PAUSE
        while True:
            with bootstrap.engine(bootstrap.settings().database_url).connect() as connection:
                command = views.command(connection, command_id)
            if command is not None and command["status"] != "pending":
                return command
            left = deadline - time.monotonic()
            if left <= 0 or self._stopping.wait(min(pause, left)):
                return None
            pause = min(pause * 1.5, _LONGEST_PAUSE)
