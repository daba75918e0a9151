"""The table of partitions, on both databases."""

from datetime import UTC, datetime, timedelta

from sqlalchemy import Engine, update

from allocation.adapters.sql import partitions, tables
from allocation.adapters.sql.partitions import Generation, Layout
from tests.storage.conftest import Storage

OLD, NEW = ("q.2.0", "q.2.1"), ("q.4.0",)


def divided(sql: Storage) -> Engine:
    assert sql.engine is not None
    with sql.engine.begin() as connection:
        partitions.add(connection, 2, OLD)
    return sql.engine


def holders(engine: Engine) -> dict[str, str | None]:
    with engine.connect() as connection:
        return {each.queue: each.worker for each in partitions.holders(connection)}


def has(engine: Engine, worker: str, *queues: str) -> None:
    with engine.begin() as connection:
        partitions.has(connection, worker, queues)


def test_the_oldest_generation_is_consumed_until_it_is_removed(sql: Storage) -> None:
    engine = divided(sql)
    with engine.begin() as connection:
        partitions.add(connection, 4, NEW)
        old, new = partitions.generations(connection)
        first = partitions.layout(connection)
        partitions.have_consumed(connection, old, False)
        paused = partitions.layout(connection)
        partitions.remove(connection, old)
        last = partitions.layout(connection)

    assert (old, new) == (Generation(1, 2, True, OLD), Generation(2, 4, True, NEW))
    assert (first, paused, last) == (Layout(OLD), Layout(OLD, consumed=False), Layout(NEW))


def test_nothing_is_known_while_commands_have_one_queue(sql: Storage) -> None:
    assert sql.engine is not None
    with sql.engine.connect() as connection:
        assert partitions.layout(connection) == Layout()
        assert partitions.holders(connection) == []


def test_a_queue_is_shown_with_the_worker_that_last_had_it(sql: Storage) -> None:
    engine = divided(sql)

    has(engine, "one", *OLD)
    both = holders(engine)
    has(engine, "two", OLD[0])
    shared = holders(engine)
    has(engine, "one", OLD[1])
    has(engine, "two")

    assert both == dict.fromkeys(OLD, "one")
    assert shared == {OLD[0]: "two", OLD[1]: "one"}
    assert holders(engine) == {OLD[0]: None, OLD[1]: "one"}


def test_a_worker_that_is_silent_is_shown_no_more(sql: Storage) -> None:
    engine = divided(sql)
    has(engine, "one", *OLD)
    ago = datetime.now(UTC) - timedelta(seconds=partitions.FRESH + 1)
    with engine.begin() as connection:
        connection.execute(update(tables.partitions).values(since=ago, seen_at=ago))

    silent = holders(engine)
    has(engine, "one", *OLD)

    assert silent == dict.fromkeys(OLD)
    with engine.connect() as connection:
        assert {each.since for each in partitions.holders(connection)} == {ago}
