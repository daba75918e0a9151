"""Resequencer: applies each event once, and the events of a subject in the order of their sequence.

It holds back an event that comes early until its predecessors have come, or until they have been
missing for too long. The ids of received events and the effects commit in one transaction.
"""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import chain
from typing import Any
from uuid import UUID

import structlog
from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    CompoundSelect,
    Connection,
    DateTime,
    Engine,
    Index,
    MetaData,
    Select,
    String,
    Table,
    Uuid,
    delete,
    func,
    insert,
    null,
    select,
    update,
)

from allocation.messaging.cloudevents import Envelope, from_json
from allocation.messaging.database import among, insert_into, is_outage, is_postgresql
from allocation.messaging.statements import Writes, as_array, prepared

log = structlog.get_logger(__name__)

WINDOW = 50
"""Sequences of a subject that are read in one step, as many held events may follow the next gap."""


@dataclass(frozen=True, slots=True)
class Due:
    """An event to be applied now; `late`: later events of its subject were applied before."""

    event: Envelope
    late: bool


Apply = Callable[[Connection, Sequence[Due]], None]
"""Makes the effects of events; the events of one subject are in the order of their sequence."""


@dataclass(slots=True)
class ReorderBuffer:
    """The events of one subject that have come and are not applied yet."""

    next_sequence: int
    _events: dict[UUID, Envelope] = field(default_factory=dict)

    def add(self, event: Envelope) -> None:
        self._events.setdefault(event.id, event)

    def release(self) -> list[Due]:
        """Take out the events that are due, in the order of their sequence, up to the next gap."""
        due = []
        for event in sorted(self._events.values(), key=lambda event: event.sequence):
            if event.sequence > self.next_sequence:
                break
            due.append(Due(event, late=event.sequence < self.next_sequence))
            self.next_sequence = max(self.next_sequence, event.sequence + 1)
        for each in due:
            del self._events[each.event.id]
        return due


class HeldFailed(Exception):
    """The effect of an event that was held back fails; `__cause__` is the effect's exception."""

    def __init__(self, event: Envelope) -> None:
        super().__init__(f"{event.type} {event.id}")
        self.event = event


class Resequencer:
    """Applies each event once and in order; any number of processes may share the tables."""

    def __init__(
        self,
        engine: Engine,
        metadata: MetaData,
        apply: Apply,
        patience: timedelta = timedelta(seconds=60),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        *,
        ordered: bool = True,
    ) -> None:
        """`metadata` has the tables that `tables` adds; `patience` limits the wait for an event.

        Unless `ordered`, events are deduplicated only, and applied in the order of their arrival.
        """
        self._engine = engine
        self._metadata = metadata
        self._apply = apply
        self._patience = patience
        self._now = now
        self._ordered = ordered
        self._since = now()

    def resume(self) -> None:
        """Start to consume: an event that could not come until now is not missing yet.

        Raises an exception that `is_outage` accepts while the database is down.
        """
        self._engine.connect().close()
        self._since = self._now()

    def still_catching_up(self) -> None:
        """Wait for missing events from now on, as they may still be in the queue."""
        self._since = self._now()

    def take(self, events: Sequence[Envelope], oldest: Collection[UUID] = ()) -> set[UUID]:
        """Apply the events and all held ones that became due; hold back the early ones.

        Returns the ids of the events that were not received before.

        `oldest` has the ids of events that are the first of their subject that will ever come: a
        subject without any applied event starts there. If an effect fails, nothing is changed; if
        the effect of a held event fails and `events` is a single one, that raises HeldFailed.
        """
        if not self._ordered:
            return self._take_as_they_came(events)
        try:
            return self._take(events, oldest)
        except NewSubjects as new:
            with self._transaction() as received:
                received.start(new.subjects)
            return self._take(events, oldest)

    def _take_as_they_came(self, events: Sequence[Envelope]) -> set[UUID]:
        with self._transaction() as received:
            known, _ = received.known([event.id for event in events], ())
            fresh = _first_of_each(events, known)
            if fresh:
                self._apply(
                    received.connection, [Due(event, late=False) for event in fresh.values()]
                )
                received.add(fresh.values(), (), self._now())
        return set(fresh)

    def _take(self, events: Sequence[Envelope], oldest: Collection[UUID]) -> set[UUID]:
        with self._transaction() as received:
            sequences, known, holding = received.look_up(events)
            fresh = _first_of_each(events, known)
            buffers = {subject: ReorderBuffer(next_) for subject, next_ in sequences.items()}
            for event in events if oldest else ():
                buffer = buffers[event.subject]
                if event.id in oldest and buffer.next_sequence == 1:
                    buffer.next_sequence = event.sequence
            for event in fresh.values():
                buffers[event.subject].add(event)

            due = [each for buffer in buffers.values() for each in buffer.release()]
            moved = {
                subject: buffer
                for subject, buffer in buffers.items()
                if buffer.next_sequence != sequences[subject]
            }
            early = set(fresh) if len(due) < len(fresh) else set()
            for step in chain([due] if due else [], self._release_held(received, moved, holding)):
                early.difference_update(each.event.id for each in step if early)
                if len(events) > 1:
                    self._apply(received.connection, step)
                else:
                    self._apply_alone(received.connection, step, held=step is not due)
            if fresh:
                received.add(fresh.values(), early, self._now())
        return set(fresh)

    def give_up_waiting(self) -> None:
        """Go on without events that have been missing for longer than the patience.

        Raises HeldFailed if the effect of a held event fails; call it again for the others.
        """
        limit = self._now() - self._patience
        if self._since > limit:
            return
        with self._transaction() as received:
            subjects = received.overdue(limit)
        for subject in subjects:
            with self._transaction() as received:
                missing = received.lock([subject])[subject]
                first = received.first_held(subject, limit)
                if first is None:
                    continue  # the missing event has come in the meantime
                skipped = {subject: ReorderBuffer(first)}
                for step in self._release_held(received, skipped, {subject}):
                    self._apply_alone(received.connection, step, held=True)
                log.warning(
                    "events are missing; continuing without them",
                    **{received.subject_column: subject},
                    first_missing=missing,
                    last_missing=first - 1,
                )

    def drop_held(self, event: Envelope) -> None:
        """Drop an event that is held back; if it comes again, it is a new one."""
        with self._transaction() as received:
            received.drop_held(event.id)

    @contextmanager
    def _transaction(self) -> Iterator["ReceivedEvents"]:
        with self._engine.begin() as connection:
            received = ReceivedEvents(connection, self._metadata)
            yield received
            received.save()

    def _release_held(
        self,
        received: "ReceivedEvents",
        moved: dict[str, ReorderBuffer],
        holding: Collection[str],
    ) -> Iterator[list[Due]]:
        """Save the next sequences in `moved`; yield, step by step, the held events that follow.

        `holding` are the subjects with held events.
        """
        while moved:
            received.move({subject: buffer.next_sequence for subject, buffer in moved.items()})
            moved = {subject: buffer for subject, buffer in moved.items() if subject in holding}
            for event in received.held(moved) if moved else ():
                moved[event.subject].add(event)
            if due := [each for buffer in moved.values() for each in buffer.release()]:
                received.release([each.event.id for each in due])
                yield due
            subjects = {each.event.subject for each in due}
            moved = {subject: buffer for subject, buffer in moved.items() if subject in subjects}

    def _apply_alone(self, connection: Connection, due: Iterable[Due], held: bool) -> None:
        """Apply events one by one, so that a failure names its event."""
        for each in due:
            try:
                self._apply(connection, [each])
            except Exception as error:
                if not held or is_outage(error):
                    raise
                raise HeldFailed(each.event) from error


def tables(metadata: MetaData, subject_column: str = "subject") -> tuple[Table, Table]:
    """Add the resequencer's two tables to a subscriber's own; log lines name the subject alike."""
    received = Table(
        "received",
        metadata,
        Column("event_id", Uuid, primary_key=True),
        Column(subject_column, String(255), key="subject", nullable=False),
        Column("sequence", BigInteger, nullable=False),
        Column("held", JSON(none_as_null=True)),
        Column("received_at", DateTime(timezone=True), nullable=False),
    )
    held = received.c.held.is_not(None)
    Index(
        "ix_received_held",
        received.c.subject,
        received.c.sequence,
        postgresql_where=held,
        sqlite_where=held,
    )
    Index("ix_received_received_at", received.c.received_at)
    progress = Table(
        "progress",
        metadata,
        Column(subject_column, String(255), key="subject", primary_key=True),
        Column("next_sequence", BigInteger, nullable=False),
    )
    return received, progress


class NewSubjects(Exception):
    """No event of these subjects came before: `start` them in a transaction of their own."""

    def __init__(self, subjects: Collection[str]) -> None:
        self.subjects = subjects


class ReceivedEvents:
    """The resequencer's two tables, within one transaction."""

    def __init__(self, connection: Connection, metadata: MetaData) -> None:
        self.connection = connection
        self._dialect = connection.dialect.name
        self._received = metadata.tables["received"]
        self._progress = metadata.tables["progress"]
        self._held = self._received.c.held.is_not(None)
        self._writes = Writes(connection)
        self.subject_column: str = self._received.c.subject.name

    def start(self, subjects: Iterable[str]) -> None:
        """Insert subjects; their next sequence is 1."""
        self.connection.execute(
            insert_into(self._progress, self._dialect).on_conflict_do_nothing(
                index_elements=[self._progress.c.subject]
            ),
            [{"subject": subject, "next_sequence": 1} for subject in sorted(subjects)],
        )

    def lock(self, subjects: Collection[str]) -> dict[str, int]:
        """Lock the subjects until the commit; returns the next sequence of each.

        Raises NewSubjects: an insert here would block other processes, and could deadlock.
        """
        # One statement takes all locks, in the same order in each process: no deadlock.
        rows = self.connection.execute(
            _next_sequences(self._progress, self._dialect), {"subjects": list(subjects)}
        )
        sequences = dict(rows.all())
        if new := set(subjects) - sequences.keys():
            raise NewSubjects(new)
        return sequences

    def look_up(self, events: Sequence[Envelope]) -> tuple[dict[str, int], set[UUID], set[str]]:
        """Lock the subjects of the events until the commit.

        Returns the next sequence of each subject, the ids of events that were received before, and
        the subjects with held events. Raises NewSubjects.
        """
        subjects = list({event.subject for event in events})
        ids = [event.id for event in events]
        if not is_postgresql(self.connection):
            return self.lock(subjects), *self.known(ids, subjects)
        lock, look = (
            prepared(self.connection, sql, types)
            for sql, types in (
                (_LOCK.format(subject=self.subject_column), "varchar[]"),
                (_LOOK.format(subject=self.subject_column), "varchar[], uuid[]"),
            )
        )
        # Two statements in one message: the second one sees what was committed before the first
        # one had its locks.
        rows = self.connection.exec_driver_sql(
            f"EXECUTE {lock} (%(subjects)s); EXECUTE {look} (%(subjects)s, %(ids)s)",
            {"subjects": as_array(subjects), "ids": as_array(map(str, ids))},
        ).all()
        sequences = {subject: next_ for _, subject, next_, _ in rows if next_ is not None}
        if len(sequences) < len(subjects):
            raise NewSubjects(set(subjects) - sequences.keys())
        known = {event_id for event_id, _, _, _ in rows if event_id is not None}
        return sequences, known, {subject for _, subject, _, holding in rows if holding}

    def move(self, sequences: Mapping[str, int]) -> None:
        """Set the next sequence of subjects that are locked; `save` sends it."""
        self._writes.change(
            self._progress,
            [{"subject": subject, "next_sequence": next_} for subject, next_ in sequences.items()],
        )

    def known(self, ids: Collection[UUID], subjects: Collection[str]) -> tuple[set[UUID], set[str]]:
        """The ids that were received before; and those of the subjects that have held events."""
        rows = self.connection.execute(
            _known(self._received, self._dialect), {"ids": list(ids), "subjects": list(subjects)}
        ).all()
        known = {event_id for event_id, _ in rows if event_id is not None}
        return known, {subject for _, subject in rows if subject is not None}

    def add(self, events: Iterable[Envelope], early: Collection[UUID], now: datetime) -> None:
        """Insert received events; those in `early` are held back, with their bodies."""
        applied: list[Envelope] = []
        held: list[Envelope] = []
        for event in events:
            (held if early and event.id in early else applied).append(event)
        if applied and is_postgresql(self.connection):
            sql = _ADD.format(subject=self.subject_column)
            add = prepared(self.connection, sql, "uuid[], varchar[], bigint[], timestamptz")
            self.connection.exec_driver_sql(
                f"EXECUTE {add} (%(ids)s, %(subjects)s, %(sequences)s, %(now)s)",
                {
                    "ids": as_array(str(event.id) for event in applied),
                    "subjects": as_array(event.subject for event in applied),
                    "sequences": as_array(str(event.sequence) for event in applied),
                    "now": now,
                },
            )
        elif applied:
            self.connection.execute(insert(self._received), [_row(each, now) for each in applied])
        if held:
            rows = [_row(event, now) | {"held": dict(event.body)} for event in held]
            self.connection.execute(insert(self._received), rows)

    def save(self) -> None:
        """Send what `move` has collected."""
        self._writes.send()

    def held(self, subjects: Collection[str]) -> list[Envelope]:
        """The held events within WINDOW of the next sequence."""
        self.save()
        columns = self._received.c
        bodies = self.connection.scalars(
            select(columns.held)
            .join(self._progress, self._progress.c.subject == columns.subject)
            .where(
                columns.subject.in_(subjects),
                self._held,
                columns.sequence < self._progress.c.next_sequence + WINDOW,
            )
        )
        return [from_json(body) for body in bodies]

    def release(self, ids: Collection[UUID]) -> None:
        """Mark held events as applied."""
        which = self._received.c.event_id.in_(ids)
        self.connection.execute(update(self._received).where(which, self._held).values(held=None))

    def drop_held(self, event_id: UUID) -> None:
        column = self._received.c.event_id
        self.connection.execute(delete(self._received).where(column == event_id, self._held))

    def overdue(self, limit: datetime) -> list[str]:
        """The subjects with an event that has been held back since before `limit`."""
        columns = self._received.c
        query = select(columns.subject).where(self._held, columns.received_at < limit)
        return list(self.connection.scalars(query.distinct()))

    def first_held(self, subject: str, limit: datetime) -> int | None:
        """The lowest held sequence; None if no event has been held back since before `limit`."""
        columns = self._received.c
        lowest, overdue = self.connection.execute(
            select(
                func.min(columns.sequence), func.count().filter(columns.received_at < limit)
            ).where(columns.subject == subject, self._held)
        ).one()
        return lowest if overdue else None


# Statements are built once, as building one takes longer than sending it.


@cache
def _next_sequences(progress: Table, dialect: str) -> Select[str, int]:
    columns = progress.c
    return (
        select(columns.subject, columns.next_sequence)
        .where(among(columns.subject, "subjects", dialect))
        .order_by(columns.subject)
        .with_for_update()
    )


@cache
def _known(received: Table, dialect: str) -> CompoundSelect[Any]:
    columns = received.c
    came = select(columns.event_id, null().cast(String).label("subject"))
    holding = select(null().cast(Uuid), columns.subject).distinct()
    return came.where(among(columns.event_id, "ids", dialect)).union_all(
        holding.where(columns.held.is_not(None), among(columns.subject, "subjects", dialect))
    )


# One row for each subject, and one for each known id. A subquery for each of them uses the index,
# also if PostgreSQL made its plan while the tables were empty.
_LOCK = """
    SELECT FROM (SELECT unnest($1) AS subject ORDER BY subject) AS given,
    LATERAL (SELECT FROM progress WHERE "{subject}" = given.subject FOR UPDATE) AS locked"""
_LOOK = """
    SELECT NULL::uuid, subject,
        (SELECT next_sequence FROM progress WHERE "{subject}" = given.subject),
        (SELECT true FROM received
         WHERE "{subject}" = given.subject AND held IS NOT NULL LIMIT 1)
    FROM unnest($1) AS given (subject)
    UNION ALL
    SELECT id, NULL, NULL, NULL FROM unnest($2) AS given (id)
    WHERE (SELECT true FROM received WHERE event_id = given.id)"""

_ADD = """
    INSERT INTO received (event_id, "{subject}", sequence, received_at)
    SELECT id, subject, sequence, $4 FROM unnest($1, $2, $3) AS given (id, subject, sequence)"""


def _row(event: Envelope, now: datetime) -> dict[str, object]:
    return {
        "event_id": event.id,
        "subject": event.subject,
        "sequence": event.sequence,
        "received_at": now,
    }


def _first_of_each(events: Iterable[Envelope], known: Collection[UUID]) -> dict[UUID, Envelope]:
    """The events with ids that are not known, by id."""
    fresh: dict[UUID, Envelope] = {}
    for event in events:
        if event.id not in known:
            fresh.setdefault(event.id, event)
    return fresh
