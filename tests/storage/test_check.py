"""The audit finds each violation: each test corrupts the books in one way."""

from datetime import date

import pytest
from sqlalchemy import text

from allocation.adapters.sql import audit
from allocation.domain.commands import (
    Allocate,
    AllocateWaiting,
    BlockBatch,
    CancelOrder,
    ChangeBatchEta,
    ChangeBatchQuantity,
    ChangeBestBefore,
    ChangeLineQuantity,
    ChangePriority,
    ChooseStrategy,
    Command,
    Confirm,
    CreateBatch,
    CreateProduct,
    Deallocate,
    Dispatch,
    ExpireBatch,
    Extend,
    MarkOverdue,
    Receive,
    Release,
    Reserve,
    ReturnGoods,
    UnblockBatch,
    WriteOff,
)
from allocation.domain.outcomes import Succeeded
from allocation.service_layer.execution import accept, execute
from tests.storage.conftest import Storage, message


def prepare(sql: Storage) -> None:
    """A batch, an allocated line, a waiting line; nothing pending."""
    commands = [
        CreateBatch("b1", "LAMP", 10),
        Allocate("o1", "LAMP", 7),
        Allocate("o2", "LAMP", 7),
        AllocateWaiting("LAMP"),
    ]
    for number, command in enumerate(commands, start=1):
        execute(message(command, number), sql.unit_of_work())
    cook(sql, "DELETE FROM outbox WHERE kind = 'command'")
    cook(sql, "DELETE FROM commands WHERE status = 'pending'")


def cook(sql: Storage, statement: str) -> None:
    assert sql.engine is not None
    with sql.engine.begin() as connection:
        connection.execute(text(statement))


def broken(sql: Storage) -> dict[str, tuple[str, ...]]:
    assert sql.engine is not None
    return {proof.promise: proof.broken for proof in audit.run(sql.engine) if not proof.holds}


def test_honest_books_hold(sql: Storage) -> None:
    prepare(sql)

    assert sql.engine is not None
    assert [(p.holds, p.examined > 0) for p in audit.run(sql.engine)] == [(True, True)] * len(
        audit.INVARIANTS
    )


def test_books_with_a_whole_life_hold(sql: Storage) -> None:
    """Lines that move, wait, are given up and asked for again, at each step of it."""
    life: list[Command] = [
        CreateBatch("b1", "LAMP", 10),
        Allocate("o1", "LAMP", 7),
        Allocate("o2", "LAMP", 7),
        CreateBatch("b2", "LAMP", 7),
        AllocateWaiting("LAMP"),
        ChangeBatchQuantity("b1", 5),
        AllocateWaiting("LAMP"),
        Deallocate("o1", "LAMP"),
        Deallocate("o2", "LAMP"),
        Allocate("o2", "LAMP", 3),
        Allocate("o1", "LAMP", 6),
        CreateBatch('b "é\\%', "LAMP", 70),
        AllocateWaiting("LAMP"),
        Allocate('o "é\\%', "LAMP", 60),
        ChangeBatchEta("b1", date(2030, 1, 1)),
        ChangeBatchEta("b2", date(2030, 2, 1)),
        WriteOff("b1", 2, "water damage"),
        ChangeBatchEta("b1", None),
        Reserve("o3", "LAMP", 2, 900, "customer-7"),
        Reserve("o4", "LAMP", 900, 900),
        Extend("o3", 900),
        Confirm("o3"),
        Dispatch("o3", "LAMP"),
        Release("o4"),
        Reserve("o5", "LAMP", 1, 900),
        WriteOff("b2", 7, "stolen"),
        AllocateWaiting("LAMP"),
        Deallocate("o5", "LAMP"),
        Allocate("o5", "LAMP", 1),
        CreateBatch("b3", "LAMP", 2),
        CreateBatch("b4", "LAMP", 2),
        AllocateWaiting("LAMP"),
        Allocate("o6", "LAMP", 200, split=True),
        ChangeBatchQuantity("b3", 0),
        ChangeBatchQuantity("b3", 3),
        AllocateWaiting("LAMP"),
        Dispatch("o6", "LAMP", "b3"),
        Deallocate("o6", "LAMP"),
        Reserve("o7", "LAMP", 90, 900, split=True),
        Confirm("o7"),
    ]

    for number, command in enumerate(life, start=1):
        execute(message(command, number), sql.unit_of_work())

        assert broken(sql) == {}


FAR, PAST = date(2999, 1, 1), date(2020, 1, 1)


def test_books_with_a_life_of_days_and_changes_hold(sql: Storage) -> None:
    """Blocks, expiry, changes of lines, partial dispatches and returns, at each step of them."""
    life: list[Command] = [
        CreateProduct("LAMP", waiting="in_order"),
        Allocate("o1", "LAMP", 9),
        Allocate("o2", "LAMP", 2),
        CreateBatch("b1", "LAMP", 5, None, FAR),
        AllocateWaiting("LAMP"),
        ChangePriority("o2", 3),
        AllocateWaiting("LAMP"),
        Dispatch("o2", "LAMP", None, 1),
        ReturnGoods("o2", "LAMP", 1, "b1"),
        ChangeLineQuantity("o1", "LAMP", 3),
        AllocateWaiting("LAMP"),
        Dispatch("o1", "LAMP", None, 2),
        BlockBatch("b1", "recall"),
        AllocateWaiting("LAMP"),
        Allocate("o3", "LAMP", 1, priority=9),
        CreateBatch("b2", "LAMP", 9, FAR),
        AllocateWaiting("LAMP"),
        ChooseStrategy("LAMP", "earliest_first", "fill"),
        UnblockBatch("b1"),
        AllocateWaiting("LAMP"),
        Allocate("o4", "LAMP", 9, fresh_days=400_000),
        Allocate("o5", "LAMP", 9, not_before=FAR),
        Receive("b1", 9),
        AllocateWaiting("LAMP"),
        ChangeBestBefore("b1", PAST),
        AllocateWaiting("LAMP"),
        ExpireBatch("b1", PAST),
        AllocateWaiting("LAMP"),
        ChangeBatchEta("b2", PAST),
        MarkOverdue("b2", PAST),
        CreateBatch("b3", "LAMP", 4, None, PAST),
        CreateBatch("b4", "LAMP", 4),
        AllocateWaiting("LAMP"),
        ChangeLineQuantity("o1", "LAMP", 2),
        ReturnGoods("o1", "LAMP", 1, "scrap", usable=False),
        CancelOrder("o1"),
        CancelOrder("o2"),
        CancelOrder("o5"),
        AllocateWaiting("LAMP"),
        Allocate("o5", "LAMP", 1),
        Reserve("o6", "LAMP", 3, 900),
        ChangeLineQuantity("o6", "LAMP", 2),
        CancelOrder("o6"),
        Allocate("o7", "LAMP", 6, split=True),
        ChangeLineQuantity("o7", "LAMP", 4),
        Dispatch("o7", "LAMP", "b4"),
        ReturnGoods("o7", "LAMP", 1, "back"),
    ]

    for number, command in enumerate(life, start=1):
        execute(message(command, number), sql.unit_of_work())

        assert broken(sql) == {}, command


@pytest.mark.parametrize(
    ("statement", "promise", "breach"),
    [
        ("UPDATE batches SET allocated = 6", "each batch promises exactly", "b1"),
        (
            "UPDATE allocations SET qty = 8 WHERE orderid = 'o1'",
            "each batch promises exactly",
            "b1",
        ),
        (
            "UPDATE allocations SET sku = 'CHAIR' WHERE orderid = 'o1'",
            "each line holds stock of its own",
            "o1 CHAIR",
        ),
        ("DELETE FROM allocations WHERE orderid = 'o2'", "each accepted line", "o2 LAMP"),
        (
            "INSERT INTO commands (id, name, body, status, correlation_id, accepted_at) SELECT"
            " '00000000000000000000000000000099', name, body, 'pending', correlation_id,"
            " accepted_at FROM commands WHERE name = 'allocation.create_batch'",
            "each command has an outcome or is in the outbox",
            "00000000-0000-0000-0000-000000000099",
        ),
        ("DELETE FROM outbox WHERE sequence = 2", "each product's events are numbered", "LAMP"),
        (
            "UPDATE outbox SET sent_at = created_at WHERE sequence = 3",
            "no event was published before",
            "LAMP",
        ),
        (
            "UPDATE outbox SET sequence = 9 WHERE sequence = 3",
            "each product's events are numbered",
            "LAMP",
        ),
        ("UPDATE batches SET purchased = 14", "no line waits beside stock", "LAMP"),
        (
            "DELETE FROM allocations WHERE orderid = 'o2'",
            "each line has the status of the last event",
            "o2 LAMP",
        ),
        (
            "UPDATE allocations SET batchref = NULL, promised_at = NULL WHERE orderid = 'o1'",
            "each line has the status of the last event",
            "o1 LAMP",
        ),
        (
            "UPDATE allocations SET batchref = 'b1', promised_at = 3 WHERE orderid = 'o2'",
            "each promise was published as the books have it",
            "o2 LAMP",
        ),
        (
            "UPDATE allocations SET qty = 8 WHERE orderid = 'o1'",
            "each promise was published as the books have it",
            "o1 LAMP",
        ),
        ("UPDATE batches SET eta = '2030-01-01'", "the promised day of each line", "b1"),
        (
            "UPDATE allocations SET expires_at = '2030-01-01' WHERE orderid = 'o1'",
            "each reservation will end",
            "o1",
        ),
        (
            "UPDATE allocations SET expires_at = '2030-01-01' WHERE orderid = 'o1'",
            "each promise was published as the books have it",
            "o1 LAMP",
        ),
        (
            "UPDATE allocations SET orderid = 'o9' WHERE orderid = 'o1'",
            "each promise was published as the books have it",
            "o9 LAMP",
        ),
    ],
)
def test_cooked_books_are_found_out(
    sql: Storage, statement: str, promise: str, breach: str
) -> None:
    prepare(sql)
    cook(sql, "INSERT INTO products (sku, version, sequence) VALUES ('CHAIR', 0, 0)")

    cook(sql, statement)

    found = {key: value for key, value in broken(sql).items() if key.startswith(promise)}
    assert list(found.values()) == [(breach,)]


def prepare_days(sql: Storage) -> None:
    """Of two batches with days some pieces of `o1` have left; `o2` waits, and nothing is due."""
    commands: list[Command] = [
        CreateBatch("b1", "LAMP", 10, None, FAR),
        Allocate("o1", "LAMP", 7),
        Allocate("o2", "LAMP", 9),
        AllocateWaiting("LAMP"),
        Dispatch("o1", "LAMP", None, 3),
        ReturnGoods("o1", "LAMP", 1, "scrap", usable=False),
        CreateBatch("ship", "LAMP", 5, FAR),
        AllocateWaiting("LAMP"),
    ]
    for number, command in enumerate(commands, start=1):
        assert isinstance(execute(message(command, number), sql.unit_of_work()), Succeeded)
    cook(sql, "DELETE FROM outbox WHERE kind = 'command' AND due_at IS NULL")
    cook(sql, "DELETE FROM commands WHERE status = 'pending'")
    assert broken(sql) == {}


WAITS = "no line waits beside stock that it may have"
LOOKED_AT = "each batch is looked at when its last good day or its ETA has passed"
LEFT = "of each line has left what was published, and no more came back"
UNUSABLE = "no line holds stock of a batch that is blocked, or was taken out"


@pytest.mark.parametrize(
    ("statement", "promise", "breach"),
    [
        ("UPDATE batches SET blocked = 'recall' WHERE batchref = 'b1'", UNUSABLE, "o1 LAMP"),
        ("UPDATE batches SET expired = true WHERE batchref = 'b1'", UNUSABLE, "o1 LAMP"),
        ("DELETE FROM outbox WHERE name = 'allocation.expire_batch'", LOOKED_AT, "b1"),
        ("DELETE FROM outbox WHERE name = 'allocation.mark_overdue'", LOOKED_AT, "ship"),
        ("UPDATE batches SET best_before = '2998-01-01' WHERE batchref = 'b1'", LOOKED_AT, "b1"),
        ("UPDATE batches SET eta = '2998-01-01' WHERE batchref = 'ship'", LOOKED_AT, "ship"),
        ("UPDATE allocations SET dispatched_qty = 2 WHERE orderid = 'o1'", LEFT, "o1 LAMP"),
        ("UPDATE allocations SET dispatched_qty = 4 WHERE orderid = 'o1'", LEFT, "o1 LAMP"),
        ("UPDATE allocations SET returned = 4 WHERE orderid = 'o1'", LEFT, "o1 LAMP"),
        ("UPDATE allocations SET returned = -1 WHERE orderid = 'o1'", LEFT, "o1 LAMP"),
        ("UPDATE allocations SET dispatched = true WHERE orderid = 'o1'", LEFT, "o1 LAMP"),
        (
            "UPDATE allocations SET dispatched_qty = 2 WHERE orderid = 'o1'",
            "each batch promises exactly what its lines hold, within its quantity",
            "b1",
        ),
        ("UPDATE allocations SET qty = 5 WHERE orderid = 'o2'", WAITS, "LAMP"),
        ("UPDATE allocations SET qty = 5, fresh_days = 9 WHERE orderid = 'o2'", WAITS, "LAMP"),
        (
            "UPDATE allocations SET qty = 5, not_before = '2998-01-01' WHERE orderid = 'o2'",
            WAITS,
            "LAMP",
        ),
        ("UPDATE allocations SET smallest_part = 1 WHERE orderid = 'o2'", WAITS, "LAMP"),
    ],
)
def test_cooked_days_and_changes_are_found_out(
    sql: Storage, statement: str, promise: str, breach: str
) -> None:
    prepare_days(sql)

    cook(sql, statement)

    assert broken(sql).get(promise) == (breach,)


@pytest.mark.parametrize(
    "state",
    [
        "blocked = 'recall'",
        "best_before = '2020-01-01', expired = true",
        "best_before = '2998-01-01'",
    ],
    ids=["blocked", "expired", "expires before it arrives"],
)
def test_a_line_may_wait_beside_stock_that_serves_no_line(sql: Storage, state: str) -> None:
    prepare_days(sql)
    cook(sql, "UPDATE allocations SET qty = 5 WHERE orderid = 'o2'")

    cook(sql, f"UPDATE batches SET {state} WHERE batchref = 'ship'")

    assert WAITS not in broken(sql)


def test_a_line_may_wait_beside_stock_that_is_not_fresh_enough_for_it(sql: Storage) -> None:
    prepare_days(sql)
    cook(sql, "UPDATE batches SET best_before = '2999-01-09' WHERE batchref = 'ship'")
    cook(sql, "UPDATE allocations SET qty = 5, fresh_days = 9 WHERE orderid = 'o2'")

    assert WAITS not in broken(sql)


def test_in_order_only_the_first_line_may_not_wait_beside_its_stock(sql: Storage) -> None:
    prepare_days(sql)
    execute(message(Allocate("o3", "LAMP", 9), 10), sql.unit_of_work())
    cook(sql, "UPDATE products SET waiting = 'in_order'")

    cook(sql, "UPDATE allocations SET qty = 5 WHERE orderid = 'o3'")
    of_the_second = broken(sql)
    cook(sql, "UPDATE allocations SET priority = 1 WHERE orderid = 'o3'")

    assert WAITS not in of_the_second
    assert broken(sql)[WAITS] == ("LAMP",)


def test_events_of_goods_that_left_may_have_been_pruned(sql: Storage) -> None:
    prepare_days(sql)

    cook(
        sql,
        "DELETE FROM outbox WHERE kind = 'event' AND sequence <="
        " (SELECT max(sequence) FROM outbox WHERE name = 'allocation.dispatched.v1')",
    )

    assert broken(sql) == {}


def test_a_follow_up_that_is_pending_counts(sql: Storage) -> None:
    prepare_days(sql)
    cook(sql, "DELETE FROM outbox WHERE name = 'allocation.mark_overdue'")

    accept(message(MarkOverdue("ship", FAR), 10), sql.unit_of_work())

    assert broken(sql) == {}


def test_a_line_that_was_given_up_and_holds_stock_is_found(sql: Storage) -> None:
    """Its last event says that its caller wants it no more."""
    prepare(sql)
    execute(message(Deallocate("o2", "LAMP"), 9), sql.unit_of_work())

    cook(
        sql,
        "INSERT INTO allocations (orderid, sku, qty, age, batchref, promised_at, told)"
        " VALUES ('o2', 'LAMP', 1, 9, 'b1', 1, false)",
    )

    assert broken(sql)["each line has the status of the last event about it"] == ("o2 LAMP",)


def test_an_accepted_command_that_vanished_is_found(sql: Storage) -> None:
    prepare(sql)
    accept(message(Allocate("o3", "LAMP", 1), 9), sql.unit_of_work())

    cook(sql, "DELETE FROM commands WHERE status = 'pending'")

    [breach] = broken(sql)["each command that was accepted is stored"]
    assert breach.endswith("9")


def test_a_failed_command_is_found(sql: Storage) -> None:
    prepare(sql)

    cook(sql, "UPDATE commands SET status = 'failed' WHERE name = 'allocation.create_batch'")

    [breach] = broken(sql)["no command failed"]
    assert breach.startswith("allocation.create_batch ")
