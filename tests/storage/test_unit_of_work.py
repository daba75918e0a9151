"""The guarantees of the unit of work, on every storage."""

from dataclasses import replace
from datetime import date
from uuid import UUID

import pytest
from sqlalchemy import event, select

from allocation.adapters.sql import database, tables
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract import codec
from allocation.domain.commands import (
    Allocate,
    ChangeBatchQuantity,
    Command,
    CreateBatch,
    Deallocate,
    Dispatch,
    Malformed,
    Violation,
)
from allocation.domain.outcomes import Refused, Succeeded
from allocation.service_layer.execution import (
    accept,
    accept_batch,
    drop,
    execute,
    execute_batch,
    fail,
)
from allocation.service_layer.unit_of_work import CommandConflict, Message
from tests.storage.conftest import Storage, message


def test_stock_outcome_events_and_follow_up_are_saved_together(storage: Storage) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())
    execute(message(Allocate("o1", "LAMP", 12), 2), storage.unit_of_work())
    before = len(storage.outbox())

    outcome = execute(message(CreateBatch("b2", "LAMP", 12), 3), storage.unit_of_work())

    assert outcome == Succeeded(status="created", batchref="b2")
    told = storage.outbox()[before:]
    assert len(told) == 2
    assert dict(told) == {
        "allocation.batch_created.v1": {
            "batchref": "b2",
            "sku": "LAMP",
            "qty": 12,
            "eta": None,
            "best_before": None,
            "sequence": 3,
        },
        "allocation.allocate_waiting": {"sku": "LAMP"},
    }


@pytest.mark.parametrize("qty", [0, 11], ids=["nobody waits", "no waiting line fits"])
def test_a_decision_leaves_no_follow_up_that_has_nothing_to_do(storage: Storage, qty: int) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())
    if qty:
        execute(message(Allocate("o1", "LAMP", qty), 2), storage.unit_of_work())

    execute(message(CreateBatch("b2", "LAMP", 10), 3), storage.unit_of_work())
    execute(message(ChangeBatchQuantity("b2", 5), 4), storage.unit_of_work())
    execute(message(Allocate("o2", "LAMP", 1), 5), storage.unit_of_work())
    execute(message(Deallocate("o2", "LAMP"), 6), storage.unit_of_work())

    assert "allocation.allocate_waiting" not in [name for name, _ in storage.outbox()]


def test_a_waiting_line_that_was_not_told_so_is_followed_up(storage: Storage) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())
    execute(message(Allocate("o1", "LAMP", 10), 2), storage.unit_of_work())

    execute(message(ChangeBatchQuantity("b1", 5), 3), storage.unit_of_work())

    assert ("allocation.allocate_waiting", {"sku": "LAMP"}) in storage.outbox()


def test_leaving_without_a_commit_saves_nothing(storage: Storage) -> None:
    with storage.unit_of_work() as uow:
        uow.claim([message(CreateBatch("b1", "LAMP", 10), 1)])
        uow.products.add("LAMP").create_batch("b1", 10)

    with storage.unit_of_work() as uow:
        assert uow.products.get("LAMP") is None
        assert uow.claim([message(CreateBatch("b1", "LAMP", 10), 1)]) == {}
    assert storage.outbox() == []


def test_a_repeated_command_gets_the_recorded_outcome_and_tells_nothing_new(
    storage: Storage,
) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())
    first = execute(message(Allocate("o1", "LAMP", 4), 2), storage.unit_of_work())
    execute(message(Deallocate("o1", "LAMP"), 3), storage.unit_of_work())
    before = storage.outbox()

    again = execute(message(Allocate("o1", "LAMP", 4), 2), storage.unit_of_work())

    assert again == first == Succeeded(status="allocated", batchref="b1", eta=None)
    assert storage.outbox() == before


def test_a_refusal_is_recorded_and_final(storage: Storage) -> None:
    """Also when the sku became known meanwhile."""
    refused = execute(message(Allocate("o1", "LAMP", 4), 1), storage.unit_of_work())
    execute(message(CreateBatch("b1", "LAMP", 10), 2), storage.unit_of_work())

    again = execute(message(Allocate("o1", "LAMP", 4), 1), storage.unit_of_work())

    assert again == refused == Refused("unknown sku", field="sku", sku="LAMP")


def test_the_same_id_with_another_body_is_a_conflict(storage: Storage) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())

    with pytest.raises(CommandConflict, match="another body"):
        execute(message(CreateBatch("b2", "LAMP", 10), 1), storage.unit_of_work())


def test_a_refusal_among_commands_decided_together_touches_no_other(storage: Storage) -> None:
    outcomes = execute_batch(
        [
            message(Allocate("o1", "LAMP", 4), 1),
            message(CreateBatch("b1", "LAMP", 10), 2),
            message(CreateBatch("b1", "CHAIR", 10), 3),
            message(ChangeBatchQuantity("b1", 20), 4),
            message(Allocate("o1", "LAMP", 11), 5),
        ],
        storage.unit_of_work(),
    )

    assert outcomes == [
        Refused("unknown sku", field="sku", sku="LAMP"),
        Succeeded(status="created", batchref="b1"),
        Refused("batchref taken", field="batchref", batchref="b1"),
        Succeeded(status="changed", batchref="b1", qty=20),
        Succeeded(status="allocated", batchref="b1", eta=None),
    ]


def test_a_command_that_is_there_twice_is_decided_once(storage: Storage) -> None:
    """Delivered twice, both deliveries may be waiting at the same moment."""
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())
    twice = message(Deallocate("o1", "LAMP"), 3)

    outcomes = execute_batch(
        [message(Allocate("o1", "LAMP", 4), 2), twice, twice], storage.unit_of_work()
    )

    assert outcomes[1] == outcomes[2] == Succeeded(status="deallocated")


def test_a_conflict_among_commands_decided_together_leaves_all_of_them_undecided(
    storage: Storage,
) -> None:
    """Whoever put them together takes them apart again."""
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())
    first = message(Allocate("o1", "LAMP", 4), 2)
    before = storage.outbox()

    with pytest.raises(CommandConflict):
        execute_batch([first, message(Allocate("o2", "LAMP", 4), 2)], storage.unit_of_work())
    with pytest.raises(CommandConflict):
        execute_batch([first, message(CreateBatch("b2", "LAMP", 1), 1)], storage.unit_of_work())

    assert storage.outbox() == before
    assert execute(first, storage.unit_of_work()) == Succeeded(
        status="allocated", batchref="b1", eta=None
    )


def test_an_accepted_command_goes_to_the_outbox_once(storage: Storage) -> None:
    allocate = message(Allocate("o1", "LAMP", 4), 1)

    accept(allocate, storage.unit_of_work())
    accept(allocate, storage.unit_of_work())

    assert storage.outbox() == [("allocation.allocate", {"orderid": "o1", "sku": "LAMP", "qty": 4})]
    assert execute(allocate, storage.unit_of_work()) == Refused(
        "unknown sku", field="sku", sku="LAMP"
    )


def test_commands_accepted_together_go_to_the_outbox_in_their_order(storage: Storage) -> None:
    """Whatever their ids are; a repeat adds those alone that are new."""
    first, second, third = (message(Deallocate(f"o{n}", "LAMP"), 9 - n) for n in (1, 2, 3))

    accept_batch([first, second], storage.unit_of_work())
    accept_batch([first, second, third], storage.unit_of_work())

    assert storage.outbox() == [
        ("allocation.deallocate", {"orderid": f"o{n}", "sku": "LAMP"}) for n in (1, 2, 3)
    ]


def test_a_command_that_comes_as_part_of_something_else_is_a_conflict(storage: Storage) -> None:
    """Its id and body are known, with another correlation id: none of its company is accepted."""
    known = message(Allocate("o1", "LAMP", 4), 1)
    accept(known, storage.unit_of_work())
    before = storage.outbox()

    other = replace(known, correlation_id=UUID(int=9))
    with pytest.raises(CommandConflict):
        accept_batch([message(Allocate("o2", "LAMP", 4), 2), other], storage.unit_of_work())

    assert storage.outbox() == before


def test_a_failed_command_can_still_be_decided(storage: Storage) -> None:
    """A dead letter that is replayed finds the way open."""
    allocate = message(Allocate("o1", "LAMP", 4), 1)
    fail(allocate, "OSError: no space", storage.unit_of_work())

    outcome = execute(allocate, storage.unit_of_work())

    assert outcome == Refused("unknown sku", field="sku", sku="LAMP")


def test_a_failure_does_not_undo_an_outcome(storage: Storage) -> None:
    create = message(CreateBatch("b1", "LAMP", 10), 1)
    execute(create, storage.unit_of_work())

    fail(create, "TimeLimitExceeded", storage.unit_of_work())

    assert execute(create, storage.unit_of_work()) == Succeeded(status="created", batchref="b1")


def test_a_dropped_command_is_refused_for_good(storage: Storage) -> None:
    """Its message may still come from somewhere."""
    allocate = message(Allocate("o1", "LAMP", 4), 1)
    accept(allocate, storage.unit_of_work())

    assert drop(allocate.id, storage.unit_of_work())

    assert execute(allocate, storage.unit_of_work()) == Refused("dropped", field="id")


def test_only_a_command_without_an_outcome_can_be_dropped(storage: Storage) -> None:
    """What was decided stays decided, and of an unknown one there is nothing to drop."""
    create = message(CreateBatch("b1", "LAMP", 10), 1)
    execute(create, storage.unit_of_work())

    assert not drop(create.id, storage.unit_of_work())
    assert not drop(UUID(int=99), storage.unit_of_work())

    assert execute(create, storage.unit_of_work()) == Succeeded(status="created", batchref="b1")


def test_a_malformed_command_is_refused_and_recorded(storage: Storage) -> None:
    malformed = Malformed(
        "allocation.allocate", (Violation("qty", "is missing"),), '{"sku": "\\u0000"}'
    )

    outcome = execute(message(malformed, 1), storage.unit_of_work())

    assert outcome == Refused("malformed command", field="qty", problem="is missing")
    assert execute(message(malformed, 1), storage.unit_of_work()) == outcome


def test_a_taken_batchref_is_refused_for_any_product(storage: Storage) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())

    outcome = execute(message(CreateBatch("b1", "CHAIR", 10), 2), storage.unit_of_work())

    assert outcome == Refused("batchref taken", field="batchref", batchref="b1")


def test_an_unknown_batchref_is_refused(storage: Storage) -> None:
    outcome = execute(message(ChangeBatchQuantity("b1", 5), 1), storage.unit_of_work())

    assert outcome == Refused("unknown batchref", field="batchref", batchref="b1")


def test_what_follows_from_a_command_carries_the_ids_that_caused_it(sql: Storage) -> None:
    """The command's own id, and that of the command which began it all."""
    begun, change = UUID(int=99), ChangeBatchQuantity("b1", 10)
    execute(message(CreateBatch("b1", "LAMP", 5), 2), sql.unit_of_work())
    execute(message(Allocate("o1", "LAMP", 10), 3), sql.unit_of_work())

    execute(Message(UUID(int=1), change, correlation_id=begun), sql.unit_of_work())

    assert sql.engine is not None
    with sql.engine.connect() as connection:
        columns = tables.outbox.c
        caused = connection.execute(
            select(columns.causation_id, columns.correlation_id).where(
                columns.correlation_id == begun
            )
        ).all()
    assert caused == [(UUID(int=1), begun), (UUID(int=1), begun)]


def test_a_batch_keeps_its_eta(storage: Storage) -> None:
    """A date, not a moment."""
    execute(message(CreateBatch("b1", "LAMP", 10, date(2030, 1, 31)), 1), storage.unit_of_work())

    outcome = execute(message(Allocate("o1", "LAMP", 4), 2), storage.unit_of_work())

    assert outcome == Succeeded(status="allocated", batchref="b1", eta="2030-01-31")


def test_a_connection_plans_each_statement_once(database_url: str) -> None:
    engine = database.engine(database_url, pool_size=1)
    planned: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("PREPARE"):
            planned.append(statement.partition(" AS ")[2])

    event.listen(engine, "after_cursor_execute", note)
    for number in range(1, 4):
        execute(message(CreateBatch(f"b{number}", "LAMP", 10), number), SqlUnitOfWork(engine))
    engine.dispose()

    assert planned
    assert len(planned) == len(set(planned))


ODD = Allocate("o1 ", "LAMP", 4)
"""A command with an id that only releases without the rule for new ids accepted."""


def as_it_comes(command: Command, number: int) -> Message:
    """The command as a worker reads it."""
    name, body = codec.command_name(command), codec.command_body(command)
    return message(codec.parse_command(name, body), number)


def test_a_new_id_that_breaks_the_rule_is_refused_as_it_comes(storage: Storage) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())

    refused = execute(as_it_comes(ODD, 2), storage.unit_of_work())

    assert refused == Refused(
        "malformed command", field="orderid", problem="has white space at its end"
    )
    assert execute(as_it_comes(ODD, 2), storage.unit_of_work()) == refused


def test_what_was_accepted_before_there_was_a_rule_is_carried_out(storage: Storage) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())
    accept(message(ODD, 2), storage.unit_of_work())

    outcome = execute(as_it_comes(ODD, 2), storage.unit_of_work())

    assert outcome == Succeeded(status="allocated", batchref="b1", eta=None)


def test_a_repeat_from_before_there_was_a_rule_gets_the_recorded_outcome(storage: Storage) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), storage.unit_of_work())
    first = execute(message(ODD, 2), storage.unit_of_work())
    before = storage.outbox()

    again = execute(as_it_comes(ODD, 2), storage.unit_of_work())

    assert again == first == Succeeded(status="allocated", batchref="b1", eta=None)
    assert storage.outbox() == before


def test_what_is_stored_under_an_odd_id_can_be_changed_and_leaves(storage: Storage) -> None:
    execute(message(CreateBatch("b1 ", "LAMP\u200b", 10), 1), storage.unit_of_work())
    execute(message(Allocate("o1 ", "LAMP\u200b", 4), 2), storage.unit_of_work())
    asked: list[Command] = [
        Allocate("o2", "LAMP\u200b", 1),
        ChangeBatchQuantity("b1 ", 20),
        Dispatch("o1 ", "LAMP\u200b", "b1 "),
        Deallocate("o2", "LAMP\u200b"),
    ]

    outcomes = [
        execute(as_it_comes(command, number), storage.unit_of_work())
        for number, command in enumerate(asked, 3)
    ]

    said = [outcome.facts.get("status") for outcome in outcomes]
    assert said == ["allocated", "changed", "dispatched", "deallocated"]
