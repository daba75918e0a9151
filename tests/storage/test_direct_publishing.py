"""Events that their worker publishes itself, and when the relay gets them all the same."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import Engine, event, func, select, update

from allocation.adapters.sql import database
from allocation.adapters.sql.outbox import GRACE, EventRow, mark_published, only_reader
from allocation.adapters.sql.tables import outbox, to_send
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, CreateBatch
from allocation.service_layer.execution import accept, execute
from allocation.service_layer.unit_of_work import ConcurrentUpdate
from tests.storage.conftest import Storage, message, sql_storage


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
            self.committed += connection.scalars(select(outbox.c.name))


def decide(sql: Storage, *, is_ready: bool = True) -> tuple[Engine, Publisher]:
    """A batch and a line, decided by a worker that publishes its events."""
    assert sql.engine is not None
    publisher = Publisher(sql.engine, is_ready=is_ready)
    for number, command in enumerate((CreateBatch("b1", "LAMP", 10), Allocate("o1", "LAMP", 1))):
        execute(message(command, number), SqlUnitOfWork(sql.engine, publisher=publisher))
    return sql.engine, publisher


def pending(engine: Engine) -> list[Any]:
    """What the relay would publish now."""
    with only_reader(engine) as reader:
        assert reader is not None
        return list(reader.pending(100))


def after_the_grace(engine: Engine) -> None:
    """Have the rows written so much earlier."""
    with engine.begin() as connection:
        rows = connection.execute(select(outbox.c.position, outbox.c.relay_at)).all()
        for position, relay_at in rows:
            earlier = relay_at and relay_at - GRACE - timedelta(milliseconds=1)
            this = outbox.c.position == position
            connection.execute(update(outbox).where(this).values(relay_at=earlier))


def test_a_publisher_gets_each_event_after_its_commit_as_the_relay_reads_it(sql: Storage) -> None:
    engine, publisher = decide(sql)

    with engine.connect() as connection:
        stored = connection.execute(select(*to_send).order_by(outbox.c.position)).all()
    assert [row._asdict() for row in publisher.rows] == [
        {name: value for name, value in row._asdict().items() if name != "position"}
        for row in stored
    ]
    created, allocated = "allocation.batch_created.v1", "allocation.allocated.v1"
    assert publisher.committed == [created, created, allocated]


def test_a_publisher_gets_nothing_of_a_commit_that_fails(sql: Storage) -> None:
    assert sql.engine is not None
    publisher = Publisher(sql.engine)
    unit_of_work = SqlUnitOfWork(sql.engine, publisher=publisher)

    def refuse(_: object) -> None:
        raise ConcurrentUpdate("refused")

    event.listen(sql.engine, "commit", refuse)
    with pytest.raises(ConcurrentUpdate, match="refused"):
        execute(message(CreateBatch("b1", "LAMP", 10), 1), unit_of_work)

    assert publisher.rows == []


def test_the_relay_leaves_events_to_their_publisher_until_the_grace_is_over(sql: Storage) -> None:
    engine, _ = decide(sql)
    accept(message(Allocate("o2", "LAMP", 1), 7), SqlUnitOfWork(engine))

    at_once = pending(engine)
    after_the_grace(engine)
    later = pending(engine)

    assert [row.name for row in at_once] == ["allocation.allocate"]
    assert [row.name for row in later] == [
        "allocation.batch_created.v1",
        "allocation.allocated.v1",
        "allocation.allocate",
    ]


def test_the_relay_gets_the_events_at_once_while_their_publisher_is_not_ready(sql: Storage) -> None:
    engine, publisher = decide(sql, is_ready=False)

    assert publisher.rows == []
    assert [row.kind for row in pending(engine)] == ["event", "event"]


def test_the_relay_never_gets_events_that_their_publisher_marked(sql: Storage) -> None:
    engine, publisher = decide(sql)

    mark_published(engine, [row.id for row in publisher.rows[:1]])

    after_the_grace(engine)
    assert [row.id for row in pending(engine)] == [row.id for row in publisher.rows[1:]]


def test_a_publisher_leaves_rows_that_the_relay_is_marking_to_it(database_url: str) -> None:
    """To wait for them could be a deadlock: the two lock rows in different orders."""
    sql = sql_storage(database.engine(f"{database_url}?options=-c%20lock_timeout%3D5000"))
    engine, publisher = decide(sql)

    with engine.begin() as relay:
        first = outbox.c.sequence == 1
        relay.execute(update(outbox).where(first).values(sent_at=func.now()))
        mark_published(engine, [row.id for row in publisher.rows])
        with engine.connect() as connection:
            marked = connection.scalars(
                select(outbox.c.sequence).where(outbox.c.sent_at.is_not(None))
            ).all()

    assert marked == [2]
    engine.dispose()
