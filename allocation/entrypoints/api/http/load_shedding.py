"""Load shedding: while relay or workers are behind, further commands are refused."""

import threading
import time

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from allocation.settings import Settings
from allocation.views import progress

log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0
"""Seconds between two queries of a process."""

SHARE = 0.05
"""Of its time that a process spends on these queries: a slow one is followed by a longer pause."""


class LoadShedder:
    """Queries the backlog once in a while; all threads share the result."""

    def __init__(self, engine: Engine, settings: Settings) -> None:
        self._engine = engine
        self._settings = settings
        self._looking = threading.Lock()
        self._look_again = 0.0
        self._trouble: str | None = None

    def trouble(self) -> str | None:
        """Why no further command may be accepted; None while relay and workers keep up."""
        # While one thread queries, the others use the last result.
        if time.monotonic() >= self._look_again and self._looking.acquire(blocking=False):
            began = time.monotonic()
            try:
                self._see(self._look())
            except SQLAlchemyError as error:
                # Accepting the command meets the same database, and reports it.
                log.debug("the backlog can't be read", error=str(error).partition("\n")[0])
                self._trouble = None
            finally:
                ended = time.monotonic()
                self._look_again = ended + max(LOOK_EVERY, (ended - began) / SHARE)
                self._looking.release()
        return self._trouble

    def _see(self, trouble: str | None) -> None:
        if trouble and not self._trouble:
            log.warning("overloaded: new commands are refused", reason=trouble)
        if self._trouble and not trouble:
            log.info("commands are accepted again")
        self._trouble = trouble

    def _look(self) -> str | None:
        settings = self._settings
        with self._engine.connect() as connection:
            return progress.overload(connection, settings.max_pending, settings.max_outbox_age)
