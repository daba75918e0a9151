from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Connection, Engine, Integer, MetaData, Table, insert, select

from allocation.messaging import database
from allocation.messaging.retention import Past, count, delete_in_steps, half_the_time

metadata = MetaData()
notes = Table(
    "notes",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("received", Integer, nullable=False),
)
OLD = Past(notes.c.id, notes.c.received, notes.c.received < 40)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """Ten notes, the first the newest; four of them are old."""
    made = database.engine(f"sqlite:///{tmp_path}/notes.db")
    metadata.create_all(made)
    with made.begin() as connection:
        rows = [{"id": number, "received": 90 - 10 * number} for number in range(10)]
        connection.execute(insert(notes), rows)
    yield made
    made.dispose()


def left(engine: Engine) -> Sequence[int]:
    with engine.connect() as connection:
        return connection.scalars(select(notes.c.id).order_by(notes.c.id)).all()


def test_old_rows_are_counted_and_deleted_the_oldest_first(engine: Engine) -> None:
    counted = count(engine, OLD)
    steps = delete_in_steps(engine, OLD, step=3)
    first, after_first = next(steps), left(engine)
    others = list(steps)

    assert (counted, first, others) == (4, 3, [1])
    assert (after_first, left(engine)) == ([*range(7)], [*range(6)])


def test_rows_of_the_same_age_are_deleted_although_a_step_ends_between_them(engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(insert(notes), [{"id": 100 + each, "received": 0} for each in range(5)])

    steps = list(delete_in_steps(engine, OLD, step=2))

    assert (sum(steps), max(steps), left(engine)) == (9, 2, [*range(6)])


def test_a_step_that_fails_deletes_nothing_and_the_steps_before_stay_done(engine: Engine) -> None:
    def fail_at_the_second(_: Connection, keys: Sequence[Any]) -> None:
        if 6 in keys:
            raise RuntimeError("no")

    steps = delete_in_steps(engine, OLD, step=3, before=fail_at_the_second)

    assert next(steps) == 3
    with pytest.raises(RuntimeError):
        next(steps)
    assert left(engine) == [*range(7)]


def test_each_step_is_followed_by_a_pause_as_long_as_it_took() -> None:
    now, pauses = [0.0], list[float]()

    def steps() -> Iterator[float]:
        for seconds in (2.0, 5.0):
            now[0] += seconds
            yield seconds

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    assert list(half_the_time(steps(), sleep, lambda: now[0])) == [2.0, 5.0]
    assert pauses == [2.0, 5.0]
