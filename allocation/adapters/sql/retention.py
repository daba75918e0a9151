"""Which events and commands are past their time, and their deletion in small steps.

The numbers of days are `keep_events` and `keep_commands` in `allocation.settings`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Connection, Engine, and_, delete, func, literal, select

from allocation.adapters.sql.tables import commands, outbox, products
from allocation.messaging import retention
from allocation.messaging.retention import STEP, Past

_GIVING_UP = (
    *("allocation.deallocate", "allocation.cancel_order"),
    *("allocation.release", "allocation.expire"),
)
_LONGER = timedelta(days=1)
"""What gave a line up is kept longer than what asked for it: the line stays accounted for."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Events that were sent, and commands that were decided, before these are past their time."""

    events: datetime
    commands: datetime


@dataclass(frozen=True, slots=True)
class Number:
    """How many events and commands."""

    events: int = 0
    commands: int = 0

    def __add__(self, other: "Number") -> "Number":
        return Number(self.events + other.events, self.commands + other.commands)


def past(engine: Engine, limits: Limits) -> Number:
    """How many are past their time."""
    commands = [_requests(limits.commands), _give_ups(limits.commands)]
    return Number(
        retention.count(engine, _events(engine, limits.events)),
        sum(retention.count(engine, each) for each in commands),
    )


def drop(engine: Engine, limits: Limits, step: int = STEP) -> Iterator[Number]:
    """Delete what is past its time, `step` rows at a time; yields what each transaction deleted."""
    for number in retention.delete_in_steps(engine, _events(engine, limits.events), step):
        yield Number(events=number)
    for each in (_requests(limits.commands), _give_ups(limits.commands)):
        for number in retention.delete_in_steps(engine, each, step, before=_delete_rows_to_send):
            yield Number(commands=number)


def _delete_rows_to_send(connection: Connection, ids: Sequence[UUID]) -> None:
    connection.execute(delete(outbox).where(outbox.c.id.in_(ids), outbox.c.kind == "command"))


def _events(engine: Engine, limit: datetime) -> Past:
    """Sent events that are older than any that stays; of each product the newest one stays.

    So those that stay have no gap, and say up to where the product's numbers have come.
    """
    stays = select(func.min(outbox.c.position)).where(
        outbox.c.kind == "event", outbox.c.sent_at >= limit
    )
    with engine.connect() as connection:
        first = connection.scalar(stays)
    newest = select(literal(1)).where(
        products.c.sku == outbox.c.sku, products.c.sequence == outbox.c.sequence
    )
    old = and_(outbox.c.kind == "event", outbox.c.sent_at < limit, ~newest.exists())
    if first is not None:
        old &= outbox.c.position < first
    return Past(outbox.c.position, outbox.c.position, old)


def _requests(limit: datetime) -> Past:
    return _decided_before(limit, commands.c.name.not_in(_GIVING_UP))


def _give_ups(limit: datetime) -> Past:
    return _decided_before(limit - _LONGER, commands.c.name.in_(_GIVING_UP))


def _decided_before(limit: datetime, is_meant: ColumnElement[bool]) -> Past:
    """Commands with an outcome; none whose message is still to be sent: it would count as new."""
    to_be_sent = select(literal(1)).where(outbox.c.id == commands.c.id, outbox.c.sent_at.is_(None))
    decided = and_(
        is_meant,
        commands.c.accepted_at < limit,  # has the index
        commands.c.decided_at < limit,
        commands.c.status.in_(["succeeded", "rejected"]),
        ~to_be_sent.exists(),
    )
    return Past(commands.c.id, commands.c.accepted_at, decided)
