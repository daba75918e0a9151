"""The event log: events stay in the outbox once they were sent, to be read again in their order."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Engine, func, literal, select

from allocation.adapters.sql.tables import outbox, products, to_send


@dataclass(frozen=True, slots=True)
class Stretch:
    """The events from position `first` to `last`, of one sku or all; `count` when it was taken."""

    first: int
    last: int
    sku: str | None
    count: int


class EventLog:
    """What is kept of the events, read in chunks; each is a short transaction of its own."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    def knows(self, sku: str) -> bool:
        """Whether there is such a product."""
        with self._engine.connect() as connection:
            found = connection.scalar(select(products.c.sku).where(products.c.sku == sku))
        return found is not None

    def stretch(self, since: datetime | None = None, sku: str | None = None) -> Stretch:
        """The kept events that were committed until now, from the first one since that time on."""
        begin = select(func.min(outbox.c.position)).where(_is_event(sku))
        if since is not None:
            # A position, not a condition on each event: the clocks of two workers differ, and a
            # sku's events must not be told with a hole.
            begin = begin.where(outbox.c.created_at >= since)
        with self._engine.connect() as connection:
            first = connection.scalar(begin)
            if first is None:
                return Stretch(0, 0, sku, 0)
            last, count = connection.execute(
                select(func.max(outbox.c.position), func.count()).where(
                    _is_event(sku), outbox.c.position >= first
                )
            ).one()
        return Stretch(first, last, sku, count)

    def read(self, stretch: Stretch, chunk: int) -> Iterator[Sequence[Any]]:
        """Rows of the outbox in order; `begins` says that nothing of its sku is kept before.

        Of one sku the positions have the order of the sequences, as its events are written under
        the product's lock. A transaction that commits meanwhile with a position that was passed is
        left out: its events are yet to be published.
        """
        before = outbox.alias()
        previous = select(literal(1)).where(
            before.c.sku == outbox.c.sku,
            before.c.sequence == outbox.c.sequence - 1,
            before.c.position >= stretch.first,
        )
        query = (
            select(*to_send, (~previous.exists()).label("begins"))
            .where(_is_event(stretch.sku), outbox.c.position <= stretch.last)
            .order_by(outbox.c.position)
            .limit(chunk)
        )
        reached = stretch.first - 1
        while True:
            with self._engine.connect() as connection:
                rows = connection.execute(query.where(outbox.c.position > reached)).all()
            if not rows:
                return
            yield rows
            reached = rows[-1].position


def _is_event(sku: str | None) -> ColumnElement[bool]:
    is_event = outbox.c.kind == "event"
    return is_event if sku is None else is_event & (outbox.c.sku == sku)
