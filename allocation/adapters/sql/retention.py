"""Retention: what is past its time is dropped in small steps, each a transaction of its own.

Whoever works on the same tables waits for a step at most; an end in the middle leaves no harm.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    Select,
    and_,
    delete,
    func,
    literal,
    or_,
    select,
)

from allocation.adapters.sql.tables import commands, outbox, products

STEP = 500
"""Rows of one transaction."""
_GIVING_UP = ("allocation.deallocate", "allocation.release", "allocation.expire")
_LONGER = timedelta(days=1)
"""What gave a line up is kept longer than what asked for it: the line stays accounted for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Events that were sent, and commands that were decided, before these are past their time."""

    events: datetime
    commands: datetime


@dataclass(frozen=True, slots=True)
class Past:
    """How many events and commands."""

    events: int = 0
    commands: int = 0

    def __add__(self, other: "Past") -> "Past":
        return Past(self.events + other.events, self.commands + other.commands)


def past(engine: Engine, limits: Limits) -> Past:
    """How many are past their time."""
    with engine.connect() as connection:
        events = _events(connection, limits.events)
        decided = or_(_requests(limits.commands), _give_ups(limits.commands))
        return Past(
            connection.scalar(select(func.count()).select_from(outbox).where(events)) or 0,
            connection.scalar(select(func.count()).select_from(commands).where(decided)) or 0,
        )


def drop(engine: Engine, limits: Limits, step: int = STEP) -> Iterator[Past]:
    """Drop what is past its time, `step` rows at a time; yields what each transaction dropped."""
    engine = engine.execution_options(sqlite_begin="IMMEDIATE")
    yield from _drop_events(engine, limits.events, step)
    yield from _drop_commands(engine, _requests(limits.commands), step)
    yield from _drop_commands(engine, _give_ups(limits.commands), step)


def _drop_events(engine: Engine, limit: datetime, step: int) -> Iterator[Past]:
    with engine.connect() as connection:
        doomed = _events(connection, limit)
    reached = -1
    while True:
        with engine.begin() as connection:
            positions = connection.scalars(
                select(outbox.c.position)
                .where(doomed, outbox.c.position > reached)
                .order_by(outbox.c.position)
                .limit(step)
            ).all()
            if not positions:
                return
            gone = connection.execute(delete(outbox).where(outbox.c.position.in_(positions)))
        yield Past(events=gone.rowcount)
        reached = positions[-1]


def _drop_commands(engine: Engine, doomed: ColumnElement[bool], step: int) -> Iterator[Past]:
    query: Select[tuple[object, datetime]] = (
        select(commands.c.id, commands.c.accepted_at)
        .where(doomed)
        .order_by(commands.c.accepted_at)
        .limit(step)
        # One that a worker looks at this moment, as its message came again, is left for next time.
        .with_for_update(skip_locked=True, of=commands)
    )
    following = query
    while True:
        with engine.begin() as connection:
            rows = connection.execute(following).all()
            if not rows:
                return
            ids = [row.id for row in rows]
            connection.execute(
                delete(outbox).where(outbox.c.id.in_(ids), outbox.c.kind == "command")
            )
            gone = connection.execute(delete(commands).where(commands.c.id.in_(ids)))
        yield Past(commands=gone.rowcount)
        following = query.where(commands.c.accepted_at >= rows[-1].accepted_at)


def _events(connection: Connection, limit: datetime) -> ColumnElement[bool]:
    """Sent events that are older than any that stays; of each product the newest one stays.

    So those that stay have no gap, and tell up to where the product's numbers have come.
    """
    stays = select(func.min(outbox.c.position)).where(
        outbox.c.kind == "event", outbox.c.sent_at >= limit
    )
    first = connection.scalar(stays)
    newest = select(literal(1)).where(
        products.c.sku == outbox.c.sku, products.c.sequence == outbox.c.sequence
    )
    old = and_(outbox.c.kind == "event", outbox.c.sent_at < limit, ~newest.exists())
    return old if first is None else old & (outbox.c.position < first)


def _requests(limit: datetime) -> ColumnElement[bool]:
    return and_(_decided_before(limit), commands.c.name.not_in(_GIVING_UP))


def _give_ups(limit: datetime) -> ColumnElement[bool]:
    return and_(_decided_before(limit - _LONGER), commands.c.name.in_(_GIVING_UP))


def _decided_before(limit: datetime) -> ColumnElement[bool]:
    """Commands with an outcome; none whose message is still to be sent: it would count as new."""
    to_be_sent = select(literal(1)).where(outbox.c.id == commands.c.id, outbox.c.sent_at.is_(None))
    return and_(
        commands.c.accepted_at < limit,  # has the index
        commands.c.decided_at < limit,
        commands.c.status.in_(["succeeded", "rejected"]),
        ~to_be_sent.exists(),
    )
