"""Commits notify those that listen, and only of what they wait for."""

from collections.abc import Callable, Iterator
from uuid import UUID

import pytest
from sqlalchemy import Engine, text

from allocation.adapters.sql import database
from allocation.adapters.sql.notifications import DECIDED_CHANNEL, listen
from allocation.adapters.sql.outbox import NOTIFY_CHANNEL
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, CreateBatch
from allocation.service_layer.execution import accept, drop, execute, fail
from allocation.service_layer.unit_of_work import Message
from tests.storage.conftest import message

NOTHING_MORE = "nothing_more"
BATCH = message(CreateBatch("batch-1", "LAMP", 10), 1)
REFUSED = message(Allocate("order-1", "SOFA", 1), 2)


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = database.engine(database_url)
    yield made
    made.dispose()


def notified(engine: Engine, act: Callable[[], object]) -> set[str]:
    """The channels that are notified while `act` is done."""
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        wait = listen(connection, DECIDED_CHANNEL, NOTIFY_CHANNEL, NOTHING_MORE)
        act()
        with engine.begin() as other:
            other.execute(text(f"NOTIFY {NOTHING_MORE}"))
        heard: set[str] = set()
        while NOTHING_MORE not in heard:
            came = wait(10)
            assert came, heard
            heard |= {each.channel for each in came}
        connection.invalidate()
    return heard - {NOTHING_MORE}


@pytest.mark.parametrize(
    ("command", "decide", "channels"),
    [
        (BATCH, execute, {DECIDED_CHANNEL, NOTIFY_CHANNEL}),
        (REFUSED, execute, {DECIDED_CHANNEL}),
        (BATCH, lambda command, uow: fail(command, "RuntimeError", uow), {DECIDED_CHANNEL}),
        (BATCH, lambda command, uow: drop(command.id, uow), {DECIDED_CHANNEL}),
    ],
    ids=["succeeded", "rejected", "failed", "dropped"],
)
def test_the_commit_that_decides_an_accepted_command_wakes_who_waits_for_it(
    engine: Engine,
    command: Message,
    decide: Callable[[Message, SqlUnitOfWork], object],
    channels: set[str],
) -> None:
    accept(command, SqlUnitOfWork(engine))

    heard = notified(engine, lambda: decide(command, SqlUnitOfWork(engine)))

    assert heard == channels


def test_a_command_that_nobody_can_wait_for_wakes_only_the_relay(engine: Engine) -> None:
    heard = notified(engine, lambda: execute(BATCH, SqlUnitOfWork(engine)))

    assert heard == {NOTIFY_CHANNEL}


def test_to_accept_a_command_wakes_only_the_relay(engine: Engine) -> None:
    heard = notified(engine, lambda: accept(BATCH, SqlUnitOfWork(engine)))

    assert heard == {NOTIFY_CHANNEL}


def test_to_drop_an_unknown_command_wakes_nobody(engine: Engine) -> None:
    heard = notified(engine, lambda: drop(UUID(int=9), SqlUnitOfWork(engine)))

    assert heard == set()
