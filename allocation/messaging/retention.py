"""Retention: rows past their time are deleted in small steps, each a transaction of its own.

Other transactions on the same tables wait for one step at most, and breaking off does no harm.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from sqlalchemy import ColumnElement, Connection, Engine, Select, delete, func, select
from sqlalchemy.sql.schema import Column

STEP = 500
"""Rows of one transaction."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Past:
    """The rows past their time: those of `key`'s table that meet `where`.

    `key` identifies a row; `since` is an indexed column that tells the row's age.
    """

    key: Column[Any]
    since: Column[Any]
    where: ColumnElement[bool]


def count(engine: Engine, past: Past) -> int:
    """How many rows are past their time."""
    with engine.connect() as connection:
        query = select(func.count()).select_from(past.key.table).where(past.where)
        return connection.scalar(query) or 0


def delete_in_steps(
    engine: Engine,
    past: Past,
    step: int = STEP,
    before: Callable[[Connection, Sequence[Any]], None] = lambda connection, keys: None,
) -> Iterator[int]:
    """Delete the rows, the oldest first; yields how many each transaction deleted.

    `before` is called with the keys that are deleted next, in the same transaction. A row that
    another transaction has locked is left for the next time.
    """
    engine = engine.execution_options(sqlite_begin="IMMEDIATE")
    query: Select[Any] = (
        select(past.key, past.since.label("reached"))
        .where(past.where)
        .order_by(past.since)
        .limit(step)
        .with_for_update(skip_locked=True, of=past.key.table)
    )
    following = query
    while True:
        with engine.begin() as connection:
            rows = connection.execute(following).all()
            if not rows:
                return
            keys = [row[0] for row in rows]
            before(connection, keys)
            deleted = connection.execute(delete(past.key.table).where(past.key.in_(keys)))
        yield deleted.rowcount
        # What was passed is not looked at again: it may be long, and have nothing to delete.
        following = query.where(past.since >= rows[-1].reached)


def half_the_time(
    steps: Iterator[T],
    sleep: Callable[[float], None] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> Iterator[T]:
    """The steps, with as long a pause after each as it took: others have half of the time."""
    began = clock()
    for step in steps:
        yield step
        sleep(clock() - began)
        began = clock()
