"""Events as they are committed, and the position up to which no further one can appear."""

from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

from sqlalchemy import ARRAY, Connection, Row, Select, Text, all_, bindparam, func, literal, select
from sqlalchemy import text as sql

from allocation.adapters.sql.tables import outbox
from allocation.messaging.database import is_postgresql

CHUNK = 500
"""Events that one query finds, at most."""

_LAST_NUMBER = sql("SELECT CASE WHEN is_called THEN last_value ELSE 0 END FROM outbox_position_seq")
_WRITERS = sql(
    "SELECT DISTINCT virtualtransaction FROM pg_locks"
    " WHERE locktype = 'relation' AND mode = 'RowExclusiveLock' AND relation = 'outbox'::regclass"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
)
_EVENT = (
    outbox.c.position,
    outbox.c.name,
    outbox.c.sku,
    outbox.c.orderid,
    outbox.c.body.cast(Text).label("body"),
)


class Watch:
    """Finds each event once, from the moment that `settled` is first known.

    Transactions commit in another order than they number their rows. A position is settled once
    every row up to it is visible, or never will be. So the last number is settled when every
    transaction has ended that was writing to the outbox just after: any that took a number up to it
    and has not committed is among them, as it holds the table's lock until its end. SQLite has one
    writer, so all that is visible is settled; only rows of events count there, because SQLite gives
    the number of a deleted command again.
    """

    def __init__(self) -> None:
        self.settled: int | None = None
        self._known: set[int] = set()
        self._last = 0
        self._writers: set[str] | None = None  # that wrote just after `_last`

    @property
    def waits(self) -> bool:
        """Whether a transaction has yet to end that later ones have overtaken."""
        return self._writers is not None

    def look(self, connection: Connection) -> Sequence[Row[Any]]:
        """Events that were not found before, in order. If there are CHUNK of them, look again.

        On PostgreSQL each statement must be a transaction of its own.
        """
        with connection.begin():
            if is_postgresql(connection):
                return self._look(connection)
            last = last_number(connection)
            rows = [] if self.settled is None else self._new(connection)
            self.settled = rows[-1].position if rows else self.settled or last
            return rows

    def _look(self, connection: Connection) -> Sequence[Row[Any]]:
        if self._writers is None:
            last = last_number(connection)
            if last == self.settled:
                return []
            self._last, self._writers = last, set(connection.scalars(_WRITERS))
        elif self._writers:
            self._writers &= set(connection.scalars(_WRITERS))
        rows = [] if self.settled is None else self._new(connection)
        if not self._writers and len(rows) < CHUNK:
            self.settled, self._writers = self._last, None
        self._known |= {row.position for row in rows}
        self._known = {each for each in self._known if each > (self.settled or 0)}
        return rows

    def _new(self, connection: Connection) -> Sequence[Row[Any]]:
        asked: dict[str, object] = {"settled": self.settled}
        if is_postgresql(connection):
            asked["known"] = list(self._known)
        return connection.execute(_newer(connection.dialect.name), asked).all()


def last_number(connection: Connection) -> int:
    """The highest position that was given to an event until now; on PostgreSQL to any row."""
    if is_postgresql(connection):
        return connection.scalar(_LAST_NUMBER) or 0
    last = select(func.max(outbox.c.position)).where(outbox.c.kind == "event")
    return connection.scalar(last) or 0


def kept_after(
    connection: Connection, position: int, skus: Collection[str] = ()
) -> Sequence[Row[Any]]:
    """The first CHUNK events after this position that are kept and visible, in order.

    Of these skus, or of all. `begins` says that what came before of the sku was dropped.
    """
    before = outbox.alias()
    previous = select(literal(1)).where(
        before.c.sku == outbox.c.sku, before.c.sequence == outbox.c.sequence - 1
    )
    query = (
        select(*_EVENT, ((outbox.c.sequence > 1) & ~previous.exists()).label("begins"))
        .where(outbox.c.kind == "event", outbox.c.position > position)
        .order_by(outbox.c.position)
        .limit(CHUNK)
    )
    if skus:
        query = query.where(outbox.c.sku.in_(list(skus)))
    return connection.execute(query).all()


@cache
def _newer(dialect: str) -> Select[Any]:
    position = outbox.c.position
    query = (
        select(*_EVENT)
        .where(outbox.c.kind == "event", position > bindparam("settled"))
        .order_by(position)
        .limit(CHUNK)
    )
    if dialect == "postgresql":
        query = query.where(position != all_(bindparam("known", type_=ARRAY(position.type))))
    return query
