"""Which queues of commands there are, which of them workers consume, and which worker has which.

`allocation topology` writes the generations, workers write what they have; all read them here.
"""

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import Connection, Engine, delete, func, insert, or_, select, update

from allocation.adapters.sql.database import ago, clock
from allocation.adapters.sql.tables import partitions
from allocation.messaging.database import is_postgresql

SEEN_EVERY = 10.0
"""Seconds between two times that a worker says again what it has."""

FRESH = 60.0
"""Seconds after which what a worker said counts no more: it may have ended."""

_LOCK = 4_130_519_773  # any number that no other program locks in the same database

_COLUMNS = partitions.c


@dataclass(frozen=True, slots=True)
class Partition:
    """One queue, and the worker that has it; None while it got no command, or if it is silent."""

    queue: str
    worker: str | None
    since: datetime | None


@dataclass(frozen=True, slots=True)
class Generation:
    """The queues of a number of partitions, oldest generation first; `consumed` by workers."""

    number: int
    partitions: int
    consumed: bool
    queues: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Layout:
    """The queues that workers consume, if `consumed`; none: that of all commands."""

    queues: tuple[str, ...] = ()
    consumed: bool = True


@contextmanager
def only_change(engine: Engine) -> Iterator[bool]:
    """Whether no other process changes the partitions until the end of the block."""
    if not is_postgresql(engine):
        yield True
        return
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        is_only = bool(connection.scalar(select(func.pg_try_advisory_lock(_LOCK))))
        try:
            yield is_only
        finally:
            if is_only:
                connection.execute(select(func.pg_advisory_unlock(_LOCK)))


def layout(connection: Connection) -> Layout:
    """The queues of the oldest generation."""
    for oldest in generations(connection)[:1]:
        return Layout(oldest.queues, oldest.consumed)
    return Layout()


def generations(connection: Connection) -> list[Generation]:
    """The generations, of which the first is consumed; none if commands have one queue."""
    asked = select(
        _COLUMNS.generation, _COLUMNS.partitions, _COLUMNS.consumed, _COLUMNS.queue
    ).order_by(_COLUMNS.generation, _COLUMNS.queue)
    found: dict[int, Generation] = {}
    for number, count, consumed, queue in connection.execute(asked):
        before = found[number].queues if number in found else ()
        found[number] = Generation(number, count, consumed, (*before, queue))
    return list(found.values())


def holders(connection: Connection) -> list[Partition]:
    """Each queue, with the worker that has it."""
    is_fresh = _COLUMNS.seen_at > ago(connection, FRESH)
    asked = select(_COLUMNS.queue, _COLUMNS.worker, _COLUMNS.since, is_fresh.label("is_fresh"))
    return [
        Partition(row.queue, row.worker, row.since)
        if row.worker is not None and row.is_fresh
        else Partition(row.queue, None, None)
        for row in connection.execute(asked.order_by(_COLUMNS.generation, _COLUMNS.queue))
    ]


def add(connection: Connection, count: int, queues: Collection[str]) -> None:
    """Add a generation of `count` partitions after the others."""
    latest = connection.scalar(select(func.max(_COLUMNS.generation))) or 0
    rows = [{"queue": each, "partitions": count, "generation": latest + 1} for each in queues]
    connection.execute(insert(partitions), rows)


def have_consumed(connection: Connection, generation: Generation, consumed: bool) -> None:
    """Have workers consume the queues of the generation, or leave them."""
    of_it = _COLUMNS.generation == generation.number
    connection.execute(update(partitions).where(of_it).values(consumed=consumed))


def remove(connection: Connection, generation: Generation) -> None:
    connection.execute(delete(partitions).where(_COLUMNS.generation == generation.number))


def has(connection: Connection, worker: str, queues: Sequence[str]) -> None:
    """Note that the worker has these queues, and no others."""
    now = clock(connection)
    gone = (_COLUMNS.worker == worker) & _COLUMNS.queue.not_in(queues)
    connection.execute(update(partitions).where(gone).values(worker=None, since=None, seen_at=None))
    if not queues:
        return
    its = _COLUMNS.queue.in_(queues)
    is_new = or_(_COLUMNS.worker.is_(None), _COLUMNS.worker != worker)
    connection.execute(
        update(partitions).where(its, is_new).values(worker=worker, since=now, seen_at=now)
    )
    is_old = _COLUMNS.seen_at < ago(connection, SEEN_EVERY)
    connection.execute(update(partitions).where(its, is_old).values(seen_at=now))
