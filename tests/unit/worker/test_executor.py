"""Deciding a batch: one unit of work, bisected on failure; in memory."""

import pickle
from collections.abc import Callable, Sequence
from typing import Any, Self
from uuid import UUID

import pytest
from prometheus_client import generate_latest

from allocation.adapters.memory import MemoryInbox, MemoryStore, MemoryUnitOfWork
from allocation.adapters.metrics import WorkerMetrics
from allocation.contract.codec import UnknownFields
from allocation.domain.outcomes import Outcome
from allocation.entrypoints.worker import executor
from allocation.entrypoints.worker.executor import Call, Executor, Traced
from allocation.service_layer.unit_of_work import (
    CommandConflict,
    ConcurrentUpdate,
    Message,
    StorageUnavailable,
    UnitOfWork,
)
from tests.scraping import counted

Break = Callable[[Sequence[Message]], None]

CREATED = "{'status': 'created', 'batchref': 'b1'}"


def call(number: int, name: str, **kwargs: object) -> Call:
    return Call(
        f"allocation.{name}", str(UUID(int=number)), {"args": [], "kwargs": kwargs, "root_id": None}
    )


def shelf(number: int, sku: str = "LAMP") -> Call:
    return call(number, "create_batch", batchref=f"b{number}", sku=sku, qty=10)


class BreakableUnitOfWork(MemoryUnitOfWork):
    """Fails while it claims the commands, if a break says so."""

    def __init__(self, store: MemoryStore, breaks: Sequence[Break]) -> None:
        super().__init__(store)
        self._breaks = breaks

    def __enter__(self) -> Self:
        super().__enter__()
        self.inbox = BreakableInbox(self._copy, self._breaks)
        return self


class BreakableInbox(MemoryInbox):
    def __init__(self, store: MemoryStore, breaks: Sequence[Break]) -> None:
        super().__init__(store)
        self._breaks = breaks

    def claim(self, messages: Sequence[Message]) -> dict[UUID, Outcome | None]:
        for each in self._breaks:
            each(messages)
        return super().claim(messages)


class Stage:
    """An executor on a store in memory; `undecided` are the calls that it could not decide."""

    def __init__(self, *breaks: Break) -> None:
        self.store, self.metrics = MemoryStore(), WorkerMetrics()
        self.breaks = breaks
        self.transactions = 0
        self.undecided: list[tuple[str, Exception]] = []
        self.executor = Executor(self.unit_of_work, self.metrics, self.end_undecided)

    def unit_of_work(self) -> UnitOfWork:
        self.transactions += 1
        return BreakableUnitOfWork(self.store, self.breaks)

    def end_undecided(self, undecided: Call, error: Exception) -> Traced:
        self.undecided.append((undecided.id, error))
        return 1, error, 0.0

    def run(self, *calls: Call) -> list[object]:
        """What each call came to: its result, or its exception."""
        return [found for _, found, _ in self.executor.run(calls)]

    def counts(self, name: str) -> dict[tuple[str, ...], float]:
        return counted(generate_latest(self.metrics.registry).decode(), name)


def fails_for(number: int, error: Exception) -> Break:
    """Fail each unit of work that has this command."""

    def check(messages: Sequence[Message]) -> None:
        if UUID(int=number) in [message.id for message in messages]:
            raise error

    return check


def test_a_batch_is_decided_by_one_unit_of_work() -> None:
    stage = Stage()

    found = stage.run(shelf(1), call(2, "allocate", orderid="o", sku="LAMP", qty=1))

    assert found == [CREATED, "{'status': 'allocated', 'batchref': 'b1', 'eta': None}"]
    assert stage.transactions == 1


def test_a_refusal_is_a_result_and_touches_no_other_command() -> None:
    stage = Stage()

    found = stage.run(
        call(1, "allocate", orderid="o", sku="NO-SUCH-SKU", qty=1),
        call(2, "allocate", orderid="o", sku="LAMP", qty=-1),
        shelf(3),
    )

    assert [str(each).partition(",")[0] for each in found] == [
        "{'refused': 'unknown sku'",
        "{'refused': 'malformed command'",
        "{'status': 'created'",
    ]
    assert stage.undecided == []


def test_the_command_that_a_batch_fails_for_is_isolated_and_the_others_are_decided() -> None:
    broken = RuntimeError("the disk is on fire")
    stage = Stage(fails_for(6, broken))

    found = stage.run(*(shelf(number, f"sku-{number}") for number in range(1, 9)))

    assert stage.undecided == [(str(UUID(int=6)), broken)]
    assert found[5] is broken
    assert [each for each in found if each is not broken] == [
        f"{{'status': 'created', 'batchref': 'b{number}'}}" for number in range(1, 9) if number != 6
    ]
    # 8; 4 + 4; the second 4 are 2 + 2; the first 2 of these are 1 + 1.
    assert stage.transactions == 7


def test_a_conflict_is_isolated_too() -> None:
    for error in (ConcurrentUpdate("again"), CommandConflict("another body")):
        stage = Stage(fails_for(2, error))

        found = stage.run(shelf(1), shelf(2, "CHAIR"))

        assert found == [CREATED, error]


def test_goods_that_left_and_are_not_on_the_books_fail_alone_and_can_be_replayed() -> None:
    stage = Stage()
    reported = {"orderid": "o2", "sku": "LAMP", "reported": True}

    found = stage.run(
        shelf(1),
        call(2, "allocate", orderid="o1", sku="LAMP", qty=3),
        call(3, "dispatch", orderid="o1", sku="LAMP", batchref="b1", qty=4, reported=True),
        call(4, "dispatch", orderid="o1", sku="LAMP", batchref="b1", qty=2, reported=True),
        call(5, "dispatch", **reported),
        call(6, "dispatch", orderid="o1", sku="CHAIR", reported=True),
    )

    assert [str(UUID(int=number)) for number in (3, 5, 6)] == [each for each, _ in stage.undecided]
    assert [each for each in found if isinstance(each, str)] == [
        CREATED,
        "{'status': 'allocated', 'batchref': 'b1', 'eta': None}",
        "{'status': 'dispatched', 'batchref': 'b1', 'qty': 2, 'left': 1}",
    ]
    problem = "goods were reported to have left, and the books do not have them: "
    expected = [
        "quantity too large (field qty, qty 4, known_qty 3); order o1, sku LAMP, qty 4",
        "unknown order line (field orderid, orderid o2, sku LAMP); order o2, sku LAMP, qty all",
        "unknown sku (field sku, sku CHAIR); order o1, sku CHAIR, qty all",
    ]
    assert [str(error) for _, error in stage.undecided] == [problem + each for each in expected]
    mended = stage.run(
        call(7, "allocate", orderid="o2", sku="LAMP", qty=1), call(5, "dispatch", **reported)
    )
    assert mended[1] == "{'status': 'dispatched', 'batchref': 'b1'}"


def test_what_goods_that_are_not_on_the_books_fail_for_gets_out_of_its_process() -> None:
    """Celery sends the exception from the pool's process to the worker's main one, pickled."""
    stage = Stage()

    stage.run(call(1, "dispatch", orderid="o1", sku="LAMP", reported=True))

    [(_, error)] = stage.undecided
    arrived = pickle.loads(pickle.dumps(error))
    assert (type(arrived), str(arrived)) == (type(error), str(error))


def test_after_a_slow_transaction_the_next_ones_take_fewer_commands_until_they_are_quick(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    took: list[int] = []

    def note(messages: Sequence[Message]) -> None:
        took.append(len(messages))

    stage = Stage(note)
    batch = [shelf(number) for number in range(1, 9)]
    monkeypatch.setattr(executor, "SLOW", 0.0)
    stage.run(*batch)
    stage.run(*batch)
    monkeypatch.setattr(executor, "SLOW", 60.0)
    monkeypatch.setattr(executor, "QUICK", 60.0)
    stage.run(*batch)

    assert took == [8, 4, 2, 1, 1, 1, 2, 4, 1]


def test_an_absent_database_is_no_commands_fault_and_is_asked_once() -> None:
    stage = Stage(fails_for(1, StorageUnavailable("no route")))

    stage.run(shelf(1), shelf(2))

    assert [(type(error), error.args) for _, error in stage.undecided] == [
        (StorageUnavailable, ("no route",)),
        (StorageUnavailable, ("no route",)),
    ]
    assert stage.undecided[0][1] is not stage.undecided[1][1]
    assert stage.transactions == 1


def test_unknown_fields_are_left_to_the_task_and_the_others_are_decided() -> None:
    stage = Stage()

    found = stage.run(
        call(1, "allocate", orderid="o", sku="LAMP", qty=1, colour="red"),
        call(2, "create_batch", batchref="b1", sku="LAMP", qty=1),
    )

    assert isinstance(found[0], UnknownFields)
    assert found[1] == CREATED
    assert [each for each, _ in stage.undecided] == [str(UUID(int=1))]


def test_a_batch_that_no_command_is_left_of_needs_no_unit_of_work() -> None:
    stage = Stage()

    stage.run(call(1, "deallocate", orderid="o", sku="LAMP", colour="red"))

    assert stage.transactions == 0


def test_a_batch_is_counted_by_outcomes_and_size() -> None:
    stage = Stage(fails_for(3, RuntimeError("broken")))

    stage.run(shelf(1), call(2, "deallocate", orderid="o", sku="LAMP"), shelf(3, "CHAIR"))

    assert stage.counts("allocation_commands_decided_total") == {
        ("allocation.create_batch", "succeeded"): 1,
        ("allocation.deallocate", "rejected"): 1,
    }
    assert stage.counts("allocation_job_commands_sum") == {(): 3}


def test_a_single_command_raises_what_prevents_its_decision() -> None:
    error = ConcurrentUpdate("again")
    stage = Stage(fails_for(2, error))

    decided: Any = stage.executor.decide(shelf(1))

    assert decided.facts["status"] == "created"
    with pytest.raises(ConcurrentUpdate):
        stage.executor.decide(shelf(2))
    with pytest.raises(UnknownFields):
        stage.executor.decide(call(3, "deallocate", orderid="o", sku="LAMP", colour="red"))


def test_positional_arguments_are_refused() -> None:
    stage = Stage()
    positional = shelf(1)._replace(request={"args": ["b1"], "kwargs": {}})

    [found] = stage.run(positional)

    assert "commands take keyword arguments only" in str(found)
