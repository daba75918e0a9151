"""The proofs must be able to fail: each book is cooked in one way, and found out."""

import pytest
from sqlalchemy import text

from allocation import check
from allocation.domain.commands import Allocate, AllocateWaiting, CreateBatch
from allocation.handlers import decide
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
        decide(message(command, number), sql.unit_of_work())
    cook(sql, "DELETE FROM outbox WHERE kind = 'command'")
    cook(sql, "DELETE FROM commands WHERE status = 'pending'")


def cook(sql: Storage, statement: str) -> None:
    assert sql.engine is not None
    with sql.engine.begin() as connection:
        connection.execute(text(statement))


def broken(sql: Storage) -> dict[str, tuple[str, ...]]:
    assert sql.engine is not None
    return {proof.promise: proof.broken for proof in check.prove(sql.engine) if not proof.holds}


def test_honest_books_hold(sql: Storage) -> None:
    """Every proof, on something to examine."""
    prepare(sql)

    assert sql.engine is not None
    assert [(p.holds, p.examined > 0) for p in check.prove(sql.engine)] == [(True, True)] * len(
        check.PROOFS
    )


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
        ("DELETE FROM allocations WHERE orderid = 'o2'", "each line that was taken", "o2 LAMP"),
        (
            "INSERT INTO commands (id, name, body, status, correlation_id, accepted_at) SELECT"
            " '00000000000000000000000000000099', name, body, 'pending', correlation_id,"
            " accepted_at FROM commands WHERE name = 'allocation.create_batch'",
            "each command has an outcome",
            "00000000-0000-0000-0000-000000000099",
        ),
        ("DELETE FROM outbox WHERE sequence = 2", "each product's events are numbered", "LAMP"),
        (
            "UPDATE outbox SET sent_at = created_at WHERE sequence = 3",
            "each event is sent, or waits",
            "LAMP",
        ),
        ("UPDATE batches SET purchased = 14", "no line waits beside stock", "LAMP"),
    ],
)
def test_cooked_books_are_found_out(
    sql: Storage, statement: str, promise: str, breach: str
) -> None:
    """The proof names what breaks the promise."""
    prepare(sql)
    cook(sql, "INSERT INTO products (sku, version, sequence) VALUES ('CHAIR', 0, 0)")

    cook(sql, statement)

    found = {key: value for key, value in broken(sql).items() if key.startswith(promise)}
    assert list(found.values()) == [(breach,)]


def test_a_failed_command_is_found(sql: Storage) -> None:
    """Somebody has to look at its dead letter."""
    prepare(sql)

    cook(sql, "UPDATE commands SET status = 'failed' WHERE name = 'allocation.create_batch'")

    [breach] = broken(sql)["no command failed"]
    assert breach.startswith("allocation.create_batch ")
