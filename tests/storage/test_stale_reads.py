"""What a unit of work reads after it has waited for a lock is the latest, not what it saw before.

At READ COMMITTED a statement that waits for a lock goes on with the snapshot from before the wait.
"""

import threading
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest
from sqlalchemy import Engine, text

from allocation.adapters.sql import database
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import (
    Allocate,
    AllocateOrder,
    ChangeBatchEta,
    ChangeBatchQuantity,
    ChooseStrategy,
    Command,
    CreateBatch,
    Deallocate,
    Wanted,
)
from allocation.domain.outcomes import Outcome, Refused
from allocation.service_layer.execution import execute
from allocation.service_layer.handlers import HANDLERS
from allocation.service_layer.unit_of_work import ConcurrentUpdate
from tests.storage.conftest import message
from tests.waiting import eventually


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    """With five lamps in a batch, and a connection for each of two units of work."""
    made = database.engine(database_url)
    execute(message(CreateBatch("b1", "LAMP", 5), 1), SqlUnitOfWork(made))
    yield made
    made.dispose()


def waits_for_a_lock(engine: Engine) -> bool:
    query = text(
        "SELECT count(*) FROM pg_stat_activity"
        " WHERE datname = current_database() AND wait_event_type = 'Lock'"
    )
    with engine.connect() as connection:
        return bool(connection.scalar(query))


def after_waiting(engine: Engine, first: list[Command], second: Command) -> Outcome | Exception:
    """The outcome of the second one, which waits for the lock of the first ones."""
    found: list[Outcome | Exception] = []

    def wait() -> None:
        try:
            found.append(execute(message(second, 99), SqlUnitOfWork(engine)))
        except ConcurrentUpdate as error:
            found.append(error)

    waiting = threading.Thread(target=wait)
    with SqlUnitOfWork(engine) as uow:
        messages = [message(command, number) for number, command in enumerate(first, start=10)]
        uow.claim(messages)
        for each in messages:
            outcome = HANDLERS[type(each.command)](each.command, uow)
            for product in uow.products.pull_seen():
                for event in product.pull_events():
                    uow.outbox.add(event, each)
                product.pull_follow_ups()
            uow.inbox.record(each, outcome)
        waiting.start()
        eventually(lambda: waits_for_a_lock(engine), what="the second one to wait")
        uow.commit()
    waiting.join()
    return found[0]


def facts(outcome: Outcome | Exception) -> dict[str, object]:
    assert isinstance(outcome, Outcome)
    return dict(outcome.facts)


def test_stock_that_was_promised_meanwhile_is_not_promised_again(engine: Engine) -> None:
    outcome = after_waiting(engine, [Allocate("o1", "LAMP", 3)], Allocate("o2", "LAMP", 3))

    assert facts(outcome)["status"] == "waiting"


def test_stock_that_was_freed_meanwhile_is_promised(engine: Engine) -> None:
    execute(message(Allocate("o1", "LAMP", 5), 2), SqlUnitOfWork(engine))

    outcome = after_waiting(engine, [Deallocate("o1", "LAMP")], Allocate("o2", "LAMP", 3))

    assert facts(outcome)["status"] == "allocated"


def test_a_batch_that_came_meanwhile_is_used(engine: Engine) -> None:
    outcome = after_waiting(
        engine,
        [Allocate("o1", "LAMP", 5), CreateBatch("b2", "LAMP", 5)],
        Allocate("o2", "LAMP", 3),
    )

    assert facts(outcome)["batchref"] == "b2"


def test_a_line_that_came_meanwhile_waits_before_later_ones(engine: Engine) -> None:
    """The product's row says that lines wait in order; the line itself came with the same wait."""
    outcome = after_waiting(
        engine,
        [ChooseStrategy("LAMP", "earliest_first", "in_order"), Allocate("o1", "LAMP", 9)],
        Allocate("o2", "LAMP", 3),
    )

    assert facts(outcome)["status"] == "waiting"


def test_a_batch_that_was_changed_meanwhile_is_taken_as_it_is(engine: Engine) -> None:
    """The second command names the batch, not its product."""
    outcome = after_waiting(
        engine,
        [Allocate("o1", "LAMP", 4), ChangeBatchEta("b1", date(2999, 1, 1))],
        ChangeBatchQuantity("b1", 3),
    )

    assert isinstance(outcome, Outcome)
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT purchased, allocated, eta FROM batches")).all()
    assert [tuple(row) for row in rows] == [(3, 0, date(2999, 1, 1))]


def test_a_product_that_was_added_meanwhile_is_not_locked_and_so_not_known(
    engine: Engine,
) -> None:
    """What is read shows it, but no other transaction would wait for this one."""
    outcome = after_waiting(
        engine,
        [Allocate("o1", "LAMP", 1), CreateBatch("b2", "SOFA", 5)],
        AllocateOrder("o2", (Wanted("LAMP", 1), Wanted("SOFA", 1))),
    )

    lines: Any = facts(outcome)["lines"]
    assert [line["status"] for line in lines] == ["allocated", "rejected"]
    assert lines[1]["reason"] == "unknown sku"


@pytest.mark.parametrize("was_accepted", [False, True])
def test_a_repeat_that_waited_for_the_first_one_gets_its_outcome(
    engine: Engine, was_accepted: bool
) -> None:
    """Accepted before, the row of the inbox is there; else it comes only now."""
    first = Allocate("o1", "LAMP", 3)
    if was_accepted:
        with SqlUnitOfWork(engine) as uow:
            uow.inbox.accept([message(first, 10)])
            uow.commit()
    found: list[Outcome] = []
    waiting = threading.Thread(
        target=lambda: found.append(execute(message(first, 10), SqlUnitOfWork(engine)))
    )
    with SqlUnitOfWork(engine) as uow:
        uow.claim([message(first, 10)])
        outcome = HANDLERS[Allocate](first, uow)
        for product in uow.products.pull_seen():
            for event in product.pull_events():
                uow.outbox.add(event, message(first, 10))
        uow.inbox.record(message(first, 10), outcome)
        waiting.start()
        eventually(lambda: waits_for_a_lock(engine), what="the repeat to wait")
        uow.commit()
    waiting.join()

    assert found == [outcome]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT allocated FROM batches")) == 3


def test_a_command_that_was_dropped_meanwhile_is_not_decided(engine: Engine) -> None:
    """Whoever drops a command locks its row of the inbox, and no product."""
    command = message(Allocate("o1", "LAMP", 3), 10)
    with SqlUnitOfWork(engine) as uow:
        uow.inbox.accept([command])
        uow.commit()
    found: list[Outcome] = []
    waiting = threading.Thread(target=lambda: found.append(execute(command, SqlUnitOfWork(engine))))
    dropped = Refused("dropped", field="id")
    with SqlUnitOfWork(engine) as uow:
        assert uow.inbox.give_up(command.id, dropped)
        waiting.start()
        eventually(lambda: waits_for_a_lock(engine), what="the command to wait")
        uow.commit()
    waiting.join()

    assert found == [dropped]
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT allocated FROM batches")) == 0
