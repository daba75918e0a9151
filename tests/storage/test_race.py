"""Concurrent processes on one product: stock is never promised twice, and no line is lost."""

import multiprocessing
import multiprocessing.synchronize
import random
from collections import Counter
from datetime import date

import pytest
from sqlalchemy import Engine, func, select

from allocation.adapters.sql import audit, database, tables
from allocation.adapters.sql.outbox import only_reader
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract.codec import parse_command
from allocation.domain.commands import (
    Allocate,
    AllocateOrder,
    AllocateWaiting,
    BlockBatch,
    CancelOrder,
    ChangeBatchQuantity,
    ChangeBestBefore,
    ChangeLineQuantity,
    ChangePriority,
    Command,
    Confirm,
    CreateBatch,
    Deallocate,
    Dispatch,
    ExpireBatch,
    Receive,
    Release,
    ReturnGoods,
    UnblockBatch,
    Wanted,
)
from allocation.service_layer.execution import execute, execute_batch
from allocation.service_layer.unit_of_work import ConcurrentUpdate, Message
from tests.storage.conftest import message

pytestmark = pytest.mark.long

PROCESSES = 8
COMMANDS = 250  # by each of them
BATCHES = 5

# Real processes, each with an engine of its own; they are forked from one that has done the imports
# and nothing else.
forked = multiprocessing.get_context("forkserver")
forked.set_forkserver_preload([__name__])


def storm(url: str, seed: int, commands: int = COMMANDS) -> None:
    """One process's share: mostly allocations, against changes of the batches' quantities."""
    chance = random.Random(seed)
    engine = database.engine(url)
    for number in range(commands):
        command: Command
        if chance.random() < 0.9:
            command = Allocate(f"order-{seed}-{number}", "LAMP", chance.randint(1, 5))
        elif chance.random() < 0.5:
            batchref = f"batch-{chance.randrange(BATCHES)}"
            command = ChangeBatchQuantity(batchref, chance.randint(450, 550))
        else:
            command = AllocateWaiting("LAMP")
        execute(message(command, seed * 1_000_000 + number), SqlUnitOfWork(engine))
    engine.dispose()


def serve_all(engine: Engine) -> None:
    """Decide every follow-up that is pending or due, as relay and worker would."""
    pending = select(tables.commands).where(tables.commands.c.status == "pending")
    while True:
        with only_reader(engine) as reader:
            assert reader is not None
            reader.accept_due()
        with engine.connect() as connection:
            rows = connection.execute(pending).all()
        if not rows:
            return
        for row in rows:
            follow_up = parse_command(row.name, row.body)
            execute(Message(row.id, follow_up, row.correlation_id), SqlUnitOfWork(engine))


@pytest.mark.timeout(400)
def test_eight_processes_at_one_sku_oversell_nothing_and_lose_no_line(database_url: str) -> None:
    """Allocations against changes of quantity: the very race in which the source book oversells."""
    engine = database.engine(database_url)
    for number in range(BATCHES):
        create = CreateBatch(f"batch-{number}", "LAMP", 500)
        execute(message(create, number + 1), SqlUnitOfWork(engine))
    processes = [
        forked.Process(target=storm, args=(database_url, seed)) for seed in range(1, PROCESSES + 1)
    ]

    for process in processes:
        process.start()
    for process in processes:
        process.join()
    serve_all(engine)

    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert [proof.promise for proof in audit.run(engine) if not proof.holds] == []
    with engine.connect() as connection:
        allocates = select(func.count()).where(tables.commands.c.name == "allocation.allocate")
        lines = select(func.count()).select_from(tables.allocations)
        assert connection.scalar(lines) == connection.scalar(allocates)
        assert (connection.scalar(allocates) or 0) > 1700
    engine.dispose()


GOOD_UNTIL, GONE_BY = date(2999, 1, 1), date(2020, 1, 1)


def changing_storm(url: str, seed: int) -> None:
    """One process's share: lines change, leave and return; batches expire and are blocked."""
    chance = random.Random(seed)
    engine = database.engine(url)
    for number in range(120):
        orderid, batchref = f"order-{chance.randrange(80)}", f"batch-{chance.randrange(BATCHES)}"
        qty = chance.randint(1, 6)
        split, priority = chance.random() < 0.5, chance.randrange(3)
        allocate = Allocate(orderid, "LAMP", qty, split=split, priority=priority)
        others: list[Command] = [
            ChangeLineQuantity(orderid, "LAMP", qty),
            ChangePriority(orderid, priority),
            Dispatch(orderid, "LAMP", None, chance.choice([None, 1, 2])),
            Dispatch(orderid, "LAMP"),
            ReturnGoods(orderid, "LAMP", 1, batchref, usable=split),
            ReturnGoods(orderid, "LAMP", 1, batchref),
            CancelOrder(orderid),
            BlockBatch(batchref, "recall"),
            UnblockBatch(batchref),
            UnblockBatch(batchref),
            ChangeBestBefore(batchref, GOOD_UNTIL),
            ChangeBestBefore(batchref, chance.choice([GONE_BY, GOOD_UNTIL])),
            ExpireBatch(batchref, GONE_BY),
            ExpireBatch(batchref, GONE_BY),
            Receive(batchref, qty),
            AllocateWaiting("LAMP"),
        ]
        command = allocate if chance.random() < 0.5 else chance.choice(others)
        execute(message(command, seed * 1_000_000 + number), SqlUnitOfWork(engine))
    engine.dispose()


@pytest.mark.timeout(400)
def test_eight_processes_that_change_lines_and_batches_oversell_nothing(
    database_url: str,
) -> None:
    """Changes of quantity, returns, dispatches, expiry and blocks against allocations."""
    engine = database.engine(database_url)
    for number in range(BATCHES):
        create = CreateBatch(f"batch-{number}", "LAMP", 40, None, GOOD_UNTIL)
        execute(message(create, number + 1), SqlUnitOfWork(engine))
    spawn = multiprocessing.get_context("spawn")
    processes = [
        spawn.Process(target=changing_storm, args=(database_url, seed))
        for seed in range(1, PROCESSES + 1)
    ]

    for process in processes:
        process.start()
    for process in processes:
        process.join()
    serve_all(engine)

    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert [proof for proof in audit.run(engine) if not proof.holds] == []
    with engine.connect() as connection:
        names = Counter(connection.scalars(select(tables.outbox.c.name)))
    changes = ("dispatched", "returned", "batch_expired", "batch_blocked", "line_quantity_changed")
    assert [change for change in changes if not names[f"allocation.{change}.v1"]] == []
    engine.dispose()


SKUS = [f"SKU-{number}" for number in range(6)]


def order_storm(url: str, seed: int) -> None:
    """One process's share: orders over several skus at once, in any order, kept or given up."""
    chance = random.Random(seed)
    engine = database.engine(url)
    for number in range(40):
        orderid = f"order-{chance.randrange(60)}"
        lines = tuple(Wanted(sku, 1) for sku in chance.sample(SKUS, chance.randint(2, 5)))
        more, other = f"more-{seed}-{number}", f"order-{chance.randrange(60)}"
        group: list[Command] = [
            AllocateOrder(orderid, lines, chance.random() < 0.5, ttl=900),
            Confirm(other) if chance.random() < 0.5 else Release(other),
            AllocateOrder(more, lines[::-1], ttl=None),
            Deallocate(more, lines[0].sku),
        ]
        chance.shuffle(group)
        messages = [
            message(command, seed * 1_000_000 + number * 10 + place)
            for place, command in enumerate(group)
        ]
        execute_batch(messages, SqlUnitOfWork(engine))
    engine.dispose()


@pytest.mark.timeout(400)
def test_a_storm_of_overlapping_orders_meets_no_deadlock(database_url: str) -> None:
    """Eight processes, whose groups of commands want the same skus in every order.

    One that met a deadlock would end with an error.
    """
    engine = database.engine(database_url)
    for number, sku in enumerate(SKUS, start=1):
        execute(message(CreateBatch(f"batch-{sku}", sku, 300), number), SqlUnitOfWork(engine))
    processes = [
        forked.Process(target=order_storm, args=(database_url, seed))
        for seed in range(1, PROCESSES + 1)
    ]

    for process in processes:
        process.start()
    for process in processes:
        process.join()
    serve_all(engine)

    assert [process.exitcode for process in processes] == [0] * PROCESSES
    assert [proof.promise for proof in audit.run(engine) if not proof.holds] == []
    engine.dispose()


def decide_once(url: str, barrier: multiprocessing.synchronize.Barrier, number: int) -> None:
    """The same command as everybody else, at the same moment."""
    engine = database.engine(url)
    barrier.wait(30)
    try:
        execute(message(Allocate("order-1", "LAMP", 7), number), SqlUnitOfWork(engine))
    except ConcurrentUpdate:
        raise SystemExit(3) from None
    engine.dispose()


def test_one_command_delivered_eight_times_at_once_takes_effect_once(database_url: str) -> None:
    """The inbox makes the copies wait, and then gives them the recorded outcome."""
    engine = database.engine(database_url)
    execute(message(CreateBatch("batch-1", "LAMP", 500), 1), SqlUnitOfWork(engine))
    barrier = forked.Barrier(PROCESSES)
    processes = [
        forked.Process(target=decide_once, args=(database_url, barrier, 2))
        for _ in range(PROCESSES)
    ]

    for process in processes:
        process.start()
    for process in processes:
        process.join()

    assert [process.exitcode for process in processes] == [0] * PROCESSES
    with engine.connect() as connection:
        allocated = select(func.count()).where(tables.outbox.c.name == "allocation.allocated.v1")
        assert connection.scalar(allocated) == 1
        assert connection.scalar(select(tables.batches.c.allocated)) == 7
    engine.dispose()
