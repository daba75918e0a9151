"""Rows handed over as commands, many by one transaction, and followed until they are decided."""

import time
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from functools import partial
from uuid import UUID

from sqlalchemy import Connection
from tenacity import retry, retry_if_exception_type, stop_after_attempt

from allocation.bootstrap import Dependencies
from allocation.entrypoints.cli.batch_rows import Rejected, Row
from allocation.entrypoints.cli.import_report import Report
from allocation.entrypoints.cli.terminal import T, ask_database
from allocation.service_layer.execution import accept_batch
from allocation.service_layer.unit_of_work import ConcurrentUpdate, Message
from allocation.views import progress
from allocation.views.progress import Standing

MOST_UNDECIDED = 5_000
"""Undecided rows at once: the commands of other clients queue behind so many at most."""

SHARE = 0.5
"""Of the backlog at which the API sheds load: an import alone never causes that."""

_FIRST_INTERVAL, _LONGEST_INTERVAL = 0.02, 0.5  # seconds


class Stalled(Exception):
    """There was no progress for too long; the text says what was waited for."""


@dataclass
class Handover:
    """Hands rows over, and keeps those that are undecided, by their commands' ids.

    Raises Stalled after `timeout` seconds without progress. Without `follows` it does not wait for
    outcomes, and reports only those of repeats. Calls `looked` after each poll.
    """

    dependencies: Dependencies
    report: Report
    timeout: float
    follows: bool
    looked: Callable[[], None]
    _undecided: dict[UUID, list[Row]] = field(default_factory=dict)

    def take(self, rows: Sequence[Row]) -> None:
        """Hand over those that nobody handed over before; waits for room."""
        self._wait_while(self._has_enough)
        known = self._standings([row.message.id for row in rows])
        if any(row.message.id not in known for row in rows):
            self._wait_while(self._is_crowded)
        fresh = self._fresh(rows, known)
        self._settle(known)
        if fresh:
            ask_database(self.dependencies.settings, partial(self._accept, fresh))
            self.report.accepted += len(fresh)
        if not self.follows:
            self._undecided.clear()

    def wait_for_all(self) -> None:
        """Wait until everything is decided."""
        self._wait_while(lambda: "the last rows are undecided" if self._undecided else None)

    def _fresh(self, rows: Sequence[Row], known: Collection[UUID]) -> list[Message]:
        holders = {rows[0].batchref: id_ for id_, rows in self._undecided.items()}
        fresh = []
        for row in rows:
            id_ = row.message.id
            if id_ not in known and holders.setdefault(row.batchref, id_) != id_:
                # The row above gets the reference or is refused it: workers are in no order.
                self.report.reject(Rejected(row.line, row.cells, "batchref", "batchref taken"))
                continue
            self.report.undecided += 1
            if id_ in known or id_ in self._undecided:
                self.report.known += 1
            else:
                fresh.append(row.message)
            self._undecided.setdefault(id_, []).append(row)
        return fresh

    def _has_enough(self) -> str | None:
        enough = len(self._undecided) > MOST_UNDECIDED
        return (
            f"{len(self._undecided)} rows are undecided, too many to send more" if enough else None
        )

    def _is_crowded(self) -> str | None:
        settings = self.dependencies.settings
        limits = int(settings.max_pending * SHARE), settings.max_outbox_age * SHARE
        return self._ask(lambda connection: progress.overload(connection, *limits))

    def _wait_while(self, reason: Callable[[], str | None]) -> None:
        interval, moved_at, least = _FIRST_INTERVAL, time.monotonic(), None
        while hindrance := reason():
            began = time.monotonic()
            # Progress shows in the rows of this import, or in the backlog of all clients.
            moved = self._look()
            waiting = self._ask(progress.waiting)
            self.looked()
            looked_at = time.monotonic()
            if moved or least is None or waiting < least:
                least, moved_at = waiting, looked_at
            elif looked_at - moved_at > self.timeout:
                raise Stalled(hindrance.rstrip("."))
            interval = _FIRST_INTERVAL if moved else min(interval * 1.5, _LONGEST_INTERVAL)
            # Polling takes at most a fifth of the time: the workers need the database too.
            time.sleep(max(interval, 4 * (looked_at - began)))

    def _look(self) -> bool:
        """Settle what was decided meanwhile; whether anything was."""
        return bool(self._undecided) and self._settle(self._standings(self._undecided))

    def _settle(self, standings: dict[UUID, Standing]) -> bool:
        before = self.report.undecided
        for id_, standing in standings.items():
            if standing.status != "pending":
                for row in self._undecided.pop(id_, ()):
                    self.report.decide(row, standing)
        return self.report.undecided < before

    def _standings(self, ids: Collection[UUID]) -> dict[UUID, Standing]:
        return self._ask(lambda connection: progress.standings(connection, list(ids)))

    def _ask(self, question: Callable[[Connection], T]) -> T:
        def ask() -> T:
            with self.dependencies.engine.connect() as connection:
                return question(connection)

        return ask_database(self.dependencies.settings, ask)

    @retry(
        retry=retry_if_exception_type(ConcurrentUpdate), stop=stop_after_attempt(5), reraise=True
    )
    def _accept(self, messages: Sequence[Message]) -> None:
        accept_batch(messages, self.dependencies.unit_of_work())
