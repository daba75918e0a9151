"""Each new event is found once, and a position is settled when no event can appear below it."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from uuid import uuid4

import pytest
from sqlalchemy import Connection, Engine

from allocation.adapters.sql import database
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, Command, CreateBatch
from allocation.messaging.database import is_postgresql
from allocation.service_layer.execution import execute
from allocation.service_layer.unit_of_work import Message
from allocation.views.live_events import Watch, last_number
from tests.faults.gates import Gate
from tests.waiting import eventually


@pytest.fixture(params=["sqlite_url", "database_url"])
def engine(request: pytest.FixtureRequest) -> Iterator[Engine]:
    """Each database in turn."""
    made = database.engine(request.getfixturevalue(request.param))
    yield made
    made.dispose()


@pytest.fixture
def connection(engine: Engine) -> Iterator[Connection]:
    """One on which each statement is a transaction of its own, where that makes a difference."""
    with engine.connect() as made:
        if is_postgresql(engine):
            made = made.execution_options(isolation_level="AUTOCOMMIT")
        yield made


def run(engine: Engine, *commands: Command) -> None:
    for command in commands:
        execute(Message(uuid4(), command, uuid4()), SqlUnitOfWork(engine))


def test_what_was_there_before_is_not_new(engine: Engine, connection: Connection) -> None:
    """And what comes is found once; all is settled, as nobody is about to commit."""
    watch = Watch()
    run(engine, CreateBatch("batch-1", "LAMP", 10))
    first = watch.look(connection)
    begun = watch.settled

    run(engine, Allocate("order-1", "LAMP", 1), Allocate("order-2", "LAMP", 20))
    second = watch.look(connection)
    third = watch.look(connection)

    assert (first, third) == ([], [])
    assert [row.name for row in second] == ["allocation.allocated.v1", "allocation.out_of_stock.v1"]
    assert begun is not None
    assert begun < second[0].position
    assert watch.settled == last_number(connection) >= second[-1].position


@pytest.mark.parametrize("engine", ["database_url"], indirect=True)
def test_what_is_overtaken_is_found_later_and_nothing_else_twice(
    engine: Engine, connection: Connection
) -> None:
    """The position before it stays the settled one meanwhile."""
    run(engine, CreateBatch("batch-1", "LAMP", 10), CreateBatch("batch-2", "SOFA", 10))
    gate = Gate(engine, "outbox", deferred=True, when="NEW.sku = 'LAMP'")
    watch = Watch()
    watch.look(connection)
    begun = watch.settled

    with ThreadPoolExecutor(1) as threads, gate.shut():
        held = threads.submit(run, engine, Allocate("order-1", "LAMP", 1))
        gate.wait_for_somebody()
        run(engine, Allocate("order-1", "SOFA", 1))
        looks = [watch.look(connection) for _ in range(3)]
        meanwhile = watch.settled, watch.waits
    held.result()
    late = watch.look(connection)
    eventually(lambda: watch.look(connection) == [] and not watch.waits, what="all settled")

    assert [[row.sku for row in rows] for rows in [*looks, late]] == [["SOFA"], [], [], ["LAMP"]]
    assert meanwhile == (begun, True)
    assert late[0].position < looks[0][0].position <= (watch.settled or 0)
