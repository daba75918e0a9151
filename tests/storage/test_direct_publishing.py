"""Events that their worker publishes itself, and when the relay gets them all the same."""

from collections.abc import Sequence
from datetime import timedelta
from itertools import count
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select, update
from sqlalchemy.exc import OperationalError

from allocation.adapters.sql import audit, database
from allocation.adapters.sql.outbox import (
    GRACE,
    NOTIFY_CHANNEL,
    EventRow,
    mark_published,
    only_reader,
)
from allocation.adapters.sql.tables import is_unsent, outbox, to_send
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, Command, CreateBatch
from allocation.service_layer.execution import accept, execute_batch
from allocation.service_layer.unit_of_work import ConcurrentUpdate
from tests.storage.conftest import Storage, message, sql_storage
from tests.storage.test_notifications import notified

CREATED, ALLOCATED = "allocation.batch_created.v1", "allocation.allocated.v1"
BATCH, LINE = CreateBatch("b1", "LAMP", 10), Allocate("o1", "LAMP", 1)
NUMBERS = count(1)


class Publisher:
    """Keeps what it gets, and what of it was committed by then; it marks nothing."""

    def __init__(self, engine: Engine, *, is_ready: bool = True) -> None:
        self.is_ready = is_ready
        self.rows: list[EventRow] = []
        self.committed: list[str] = []
        self._engine = engine

    def publish(self, rows: Sequence[EventRow]) -> None:
        self.rows += rows
        with self._engine.connect() as connection:
            self.committed += connection.scalars(select(outbox.c.name).order_by(outbox.c.position))


def engine_of(sql: Storage) -> Engine:
    assert sql.engine is not None
    return sql.engine


def decide(engine: Engine, *commands: Command, is_ready: bool = True) -> Publisher:
    """Decide the commands by one transaction of a worker that publishes its events."""
    publisher = Publisher(engine, is_ready=is_ready)
    messages = [message(command, next(NUMBERS)) for command in commands]
    execute_batch(messages, SqlUnitOfWork(engine, publisher=publisher))
    return publisher


def mark(engine: Engine, publisher: Publisher) -> None:
    mark_published(engine, publisher.rows, {row.id for row in publisher.rows})


def pending(engine: Engine) -> list[Any]:
    """What the relay would publish now."""
    with only_reader(engine) as reader:
        assert reader is not None
        return list(reader.pending(100))


def names(rows: Sequence[Any]) -> list[str]:
    return [row.name for row in rows]


def after_the_grace(engine: Engine) -> None:
    """Have the rows written so much earlier."""
    with engine.begin() as connection:
        rows = connection.execute(select(outbox.c.position, outbox.c.relay_at)).all()
        for position, relay_at in rows:
            earlier = relay_at and relay_at - GRACE - timedelta(milliseconds=1)
            this = outbox.c.position == position
            connection.execute(update(outbox).where(this).values(relay_at=earlier))


def test_a_publisher_gets_each_event_after_its_commit_as_the_relay_reads_it(sql: Storage) -> None:
    engine = engine_of(sql)

    publisher = decide(engine, BATCH, LINE)

    with engine.connect() as connection:
        stored = connection.execute(select(*to_send).order_by(outbox.c.position)).all()
    assert [row._asdict() for row in publisher.rows] == [
        {name: value for name, value in row._asdict().items() if name != "position"}
        for row in stored
    ]
    assert publisher.committed == [CREATED, ALLOCATED]


def test_a_publisher_gets_nothing_of_a_commit_that_fails(sql: Storage) -> None:
    engine = engine_of(sql)
    publisher = Publisher(engine)

    def refuse(_: object) -> None:
        raise ConcurrentUpdate("refused")

    def refuse_in_message(_: object, cursor: object, statement: str, *about: object) -> None:
        if statement.endswith("COMMIT"):
            raise ConcurrentUpdate("refused")

    event.listen(engine, "commit", refuse)
    event.listen(engine, "before_cursor_execute", refuse_in_message)  # as PostgreSQL commits
    with pytest.raises(ConcurrentUpdate, match="refused"):
        execute_batch([message(BATCH, next(NUMBERS))], SqlUnitOfWork(engine, publisher=publisher))

    assert publisher.rows == []


def test_the_relay_leaves_events_to_their_publisher_until_the_grace_is_over(sql: Storage) -> None:
    engine = engine_of(sql)
    decide(engine, BATCH, LINE)
    accept(message(Allocate("o2", "LAMP", 1), next(NUMBERS)), SqlUnitOfWork(engine))

    at_once = pending(engine)
    after_the_grace(engine)
    later = pending(engine)

    assert names(at_once) == ["allocation.allocate"]
    assert names(later) == [CREATED, ALLOCATED, "allocation.allocate"]


def test_the_relay_gets_the_events_at_once_while_their_publisher_is_not_ready(sql: Storage) -> None:
    engine = engine_of(sql)

    publisher = decide(engine, BATCH, LINE, is_ready=False)

    assert publisher.rows == []
    assert names(pending(engine)) == [CREATED, ALLOCATED]


def test_the_relay_never_gets_events_that_their_publisher_marked(sql: Storage) -> None:
    engine = engine_of(sql)
    publisher = decide(engine, BATCH, LINE)

    mark_published(engine, publisher.rows, {publisher.rows[0].id})

    after_the_grace(engine)
    assert names(pending(engine)) == [ALLOCATED]


def test_the_relay_gets_the_confirmed_events_behind_a_refused_one(sql: Storage) -> None:
    engine = engine_of(sql)
    publisher = decide(engine, BATCH, CreateBatch("b2", "SOFA", 1), LINE)

    mark_published(engine, publisher.rows, {row.id for row in publisher.rows[1:]})

    after_the_grace(engine)
    assert names(pending(engine)) == [CREATED, ALLOCATED]


def test_the_relay_gets_the_events_behind_those_that_their_publisher_has_not_marked(
    sql: Storage,
) -> None:
    """And it leaves them alone as well, until these are marked."""
    engine = engine_of(sql)
    first = decide(engine, BATCH)

    second = decide(engine, LINE)
    before = pending(engine)
    mark(engine, first)
    after = pending(engine)

    assert (names(first.rows), second.rows) == ([CREATED], [])
    assert (names(before), names(after)) == ([], [ALLOCATED])


def test_the_relay_gets_events_behind_unmarked_ones_in_their_order_after_the_grace(
    sql: Storage,
) -> None:
    engine = engine_of(sql)
    decide(engine, BATCH)
    decide(engine, LINE)

    after_the_grace(engine)

    assert names(pending(engine)) == [CREATED, ALLOCATED]


def test_a_publisher_gets_events_again_once_all_earlier_ones_are_marked(sql: Storage) -> None:
    engine = engine_of(sql)
    mark(engine, decide(engine, BATCH))

    assert names(decide(engine, LINE).rows) == [ALLOCATED]


def test_events_of_one_product_hold_back_none_of_another(sql: Storage) -> None:
    engine = engine_of(sql)
    decide(engine, BATCH)

    other = decide(engine, CreateBatch("b2", "SOFA", 1), LINE)
    left = decide(engine, CreateBatch("b3", "VASE", 1), is_ready=False)

    assert [row.sku for row in other.rows] == ["SOFA"]
    assert left.rows == []
    assert [row.sku for row in pending(engine)] == ["VASE"]


def test_the_audit_finds_an_event_that_was_marked_before_an_earlier_one(sql: Storage) -> None:
    engine = engine_of(sql)
    decide(engine, BATCH, LINE)

    with engine.begin() as connection:
        second = outbox.c.sequence == 2
        connection.execute(update(outbox).where(second).values(sent_at=outbox.c.created_at))

    broken = {each.promise: each.broken for each in audit.run(engine) if not each.holds}
    assert broken == {"no event was published before an earlier event of its product": ("LAMP",)}


@pytest.mark.parametrize("commands", [(BATCH,), (BATCH, LINE)], ids=["one event", "two events"])
def test_a_mark_wakes_the_relay_if_events_were_held_back(
    database_url: str, commands: tuple[Command, ...]
) -> None:
    engine = database.engine(database_url)
    publisher = decide(engine, *commands)
    decide(engine, Allocate("o2", "LAMP", 1))

    heard = notified(engine, lambda: mark(engine, publisher))

    assert heard == {NOTIFY_CHANNEL}
    engine.dispose()


def test_a_mark_wakes_nobody_if_nothing_was_held_back(database_url: str) -> None:
    engine = database.engine(database_url)
    publisher = decide(engine, BATCH, LINE)

    heard = notified(engine, lambda: mark(engine, publisher))

    assert heard == set()
    engine.dispose()


def test_a_publisher_marks_nothing_while_the_relay_marks_one_of_its_rows(database_url: str) -> None:
    """To wait could be a deadlock: the two lock rows in different orders."""
    sql = sql_storage(database.engine(f"{database_url}?options=-c%20lock_timeout%3D5000"))
    engine = engine_of(sql)
    publisher = decide(engine, BATCH, LINE)

    with engine.begin() as relay:
        first = outbox.c.sequence == 1
        relay.execute(update(outbox).where(first).values(sent_at=func.now()))
        with pytest.raises(OperationalError, match="could not obtain lock"):
            mark(engine, publisher)

    with engine.connect() as connection:
        assert connection.scalars(select(outbox.c.sequence).where(is_unsent)).all() == [2]
    engine.dispose()
