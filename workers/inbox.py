"""The inbox: each event once, and those of a sku in the order of their sequence.

An event that comes ahead of its turn is kept until its predecessors have come, or until they have
been missing for too long. Every call is one transaction with the effects.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from uuid import UUID

import structlog
from sqlalchemy import Connection, Engine, MetaData

from allocation.messaging.cloudevents import Envelope
from allocation.messaging.database import is_outage
from workers.notes import NewSkus, Notes
from workers.turns import Due, Line, advance

log = structlog.get_logger(__name__)

Apply = Callable[[Connection, Sequence[Due]], None]
"""Makes the effects of events; those of one sku stand in the order of their sequence."""


class HeldFailed(Exception):
    """An event that had waited fails now that its turn has come; the cause says why."""

    def __init__(self, event: Envelope) -> None:
        super().__init__(f"{event.type} {event.id}")
        self.event = event


class Inbox:
    """Applies each event once and in turn; any number of processes may share the tables."""

    def __init__(
        self,
        engine: Engine,
        metadata: MetaData,
        apply: Apply,
        patience: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self._metadata = metadata
        self._apply = apply
        self._patience = patience
        self._now = now
        self._since = now()

    def resume(self) -> None:
        """Begin to consume: what could not come until now is not missing yet.

        Raises what `is_outage` knows while the database is away.
        """
        self._engine.connect().close()
        self._since = self._now()

    def still_catching_up(self) -> None:
        """What is missing may be on its way: patience begins anew."""
        self._since = self._now()

    def take(self, events: Sequence[Envelope], oldest: Collection[UUID] = ()) -> set[UUID]:
        """Apply the events and all that waited for them, keep the early ones, know the repeats.

        Returns the ids of those that were not known.

        `oldest` has the ids of those before which nothing of their sku will be told any more, so
        whoever knows nothing of the sku yet begins there. When an effect fails, nothing is done;
        an event that was given alone raises HeldFailed when it is one that waited for it.
        """
        try:
            return self._take(events, oldest)
        except NewSkus as new:
            with self._engine.begin() as connection:
                Notes(connection, self._metadata).begin(new.skus)
            return self._take(events, oldest)

    def _take(self, events: Sequence[Envelope], oldest: Collection[UUID]) -> set[UUID]:
        with self._engine.begin() as connection:
            notes = Notes(connection, self._metadata)
            turns = notes.lock({event.subject for event in events})
            known, holding = notes.known([event.id for event in events], turns)
            lines = {event.subject: Line(turns[event.subject]) for event in events}
            fresh: dict[UUID, Envelope] = {}
            for event in events:
                line = lines[event.subject]
                if event.id in oldest and line.turn == 1:
                    line.turn = event.sequence
                if event.id not in known:
                    line.join(fresh.setdefault(event.id, event))

            due = advance(lines.values())
            moved = {sku: line for sku, line in lines.items() if line.turn != turns[sku]}
            waiting = set(fresh)
            for reached in chain([due] if due else [], self._catch_up(notes, moved, holding)):
                waiting -= {each.event.id for each in reached}
                if len(events) > 1:
                    self._apply(connection, reached)
                else:
                    self._apply_alone(connection, reached, held=reached is not due)
            if fresh:
                notes.add(fresh.values(), waiting, self._now())
        return set(fresh)

    def give_up_waiting(self) -> None:
        """Go on without events that have been missing for longer than the patience.

        Raises HeldFailed when one that waited for them fails; the others may be asked for again.
        """
        limit = self._now() - self._patience
        if self._since > limit:
            return
        with self._engine.begin() as connection:
            skus = Notes(connection, self._metadata).overdue(limit)
        for sku in skus:
            with self._engine.begin() as connection:
                notes = Notes(connection, self._metadata)
                turn = notes.lock([sku])[sku]
                first = notes.first_waiting(sku, limit)
                if first is None:
                    continue  # what was missing came just now
                for reached in self._catch_up(notes, {sku: Line(first)}, {sku}):
                    self._apply_alone(connection, reached, held=True)
                log.warning(
                    "events are missing; going on without them",
                    sku=sku,
                    first_missing=turn,
                    last_missing=first - 1,
                )

    def forget(self, event: Envelope) -> None:
        """Drop an event that waits; should it come again, it is a new one."""
        with self._engine.begin() as connection:
            Notes(connection, self._metadata).forget(event.id)

    def _catch_up(
        self, notes: Notes, moved: dict[str, Line], holding: Collection[str]
    ) -> Iterator[list[Due]]:
        """Note the turns of lines that moved; let go, step by step, what waited for that.

        `holding` are the skus of which anything waits.
        """
        while moved:
            notes.move({sku: line.turn for sku, line in moved.items()})
            moved = {sku: line for sku, line in moved.items() if sku in holding}
            for event in notes.waiting(moved) if moved else ():
                moved[event.subject].join(event)
            if reached := advance(moved.values()):
                notes.release([each.event.id for each in reached])
                yield reached
            skus = {each.event.subject for each in reached}
            moved = {sku: line for sku, line in moved.items() if sku in skus}

    def _apply_alone(self, connection: Connection, due: Iterable[Due], held: bool) -> None:
        """One by one, so that a failure is known to be of one event."""
        for each in due:
            try:
                self._apply(connection, [each])
            except Exception as error:
                if not held or is_outage(error):
                    raise
                raise HeldFailed(each.event) from error
