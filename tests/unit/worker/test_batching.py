"""Which commands go to a process together, on ports that the test drives."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest

from allocation.contract import codec, registry
from allocation.entrypoints.worker.batching import ANYTHING, LINGER_WHILE_BUSY, Batching, Pool
from allocation.entrypoints.worker.batching import conflict_keys as keys
from tests.unit.worker.event_loop import Loop


@dataclass(eq=False)
class Request:
    """A command that was admitted."""

    kwargs: Mapping[str, Any]
    time_limits: Sequence[float | None] = (None, None)
    request_dict: Mapping[str, Any] = field(default_factory=dict)
    is_revoked: bool = False

    def revoked(self) -> bool:
        return self.is_revoked


class Processes(Pool):
    """So many processes, whose batches end when the test says so."""

    def __init__(self, number: int) -> None:
        self.free = number
        self.asking: list[Callable[[], None]] = []
        self.batches: list[list[Request]] = []
        self.ends: list[Callable[[], None]] = []

    def acquire(self, start: Callable[[], None]) -> None:
        self.asking.append(start)
        self._serve()

    def release(self) -> None:
        self.free += 1
        self._serve()

    def run(self, requests: Sequence[Request], finished: Callable[[], None]) -> None:
        self.batches.append(list(requests))
        self.ends.append(finished)

    def end(self, number: int) -> None:
        """End the batch of this number: as with Celery, its place is free after the callback."""
        self.ends[number]()
        self.release()

    def _serve(self) -> None:
        while self.free and self.asking:
            self.free -= 1
            self.asking.pop(0)()


class Stage:
    """A batching with what it works with."""

    def __init__(self, size: int = 10, processes: int = 2, linger: float = 0.1) -> None:
        self.loop, self.pool = Loop(), Processes(processes)
        self.batching = Batching(self.loop, self.pool, size, linger)

    def add(self, *requests: Request) -> None:
        for request in requests:
            self.batching.add(request)

    def names(self) -> list[list[str]]:
        """The order ids, or else the skus, of each batch."""
        return [
            [str(each.kwargs.get("orderid") or each.kwargs.get("sku")) for each in batch]
            for batch in self.pool.batches
        ]


def line(orderid: str, sku: str = "LAMP", **others: Any) -> Request:
    return Request({"orderid": orderid, "sku": sku, "qty": 1}, **others)


def test_commands_that_come_within_the_linger_are_one_batch() -> None:
    stage = Stage()

    stage.add(line("a"), line("b"), line("c"))
    stage.loop.run_due()
    before = stage.names()
    stage.loop.run_later()

    assert before == []
    assert stage.names() == [["a", "b", "c"]]


def test_a_full_batch_does_not_linger() -> None:
    stage = Stage(size=2)

    stage.add(line("a"), line("b"), line("c", sku="CHAIR"))

    assert stage.names() == [["a", "b"]]


def test_a_command_that_comes_alone_to_an_idle_worker_does_not_linger() -> None:
    stage = Stage()

    stage.add(line("a"))
    meanwhile = stage.names()
    stage.loop.run_due()

    assert meanwhile == []
    assert stage.names() == [["a"]]
    assert stage.loop.later == []


def test_a_command_that_comes_alone_lingers_again_once_the_worker_is_idle_no_more() -> None:
    stage = Stage()
    stage.add(line("a"))
    stage.loop.run_due()

    stage.add(line("b", sku="CHAIR"))
    stage.loop.run_due()
    meanwhile = stage.names()
    stage.pool.end(0)

    assert meanwhile == [["a"]]
    assert stage.names() == [["a"], ["b"]]


def test_the_linger_is_longer_while_a_batch_is_running() -> None:
    stage = Stage(linger=0.1)
    stage.add(line("a"), line("b"))
    stage.loop.run_due()
    first = stage.loop.later[0].seconds
    stage.loop.run_later()

    stage.add(line("c", sku="CHAIR"))
    stage.loop.run_due()

    assert first == 0.1
    assert [timer.seconds for timer in stage.loop.later] == [0.1 * LINGER_WHILE_BUSY]


def test_commands_of_a_sku_wait_while_another_process_has_an_earlier_one() -> None:
    stage = Stage()
    stage.add(line("a"))
    stage.loop.run_later()

    stage.add(line("b"), line("c", sku="CHAIR"), line("d"), line("e", sku="TABLE"))
    stage.loop.run_later()
    meanwhile = stage.names()
    stage.pool.end(0)

    assert meanwhile == [["a"], ["c", "e"]]
    assert stage.names() == [["a"], ["c", "e"], ["b", "d"]]


def test_commands_of_an_order_keep_their_order_whatever_their_skus() -> None:
    stage = Stage()
    stage.add(line("a"))
    stage.loop.run_later()

    stage.add(Request({"orderid": "a"}), line("a", sku="CHAIR"), line("b", sku="TABLE"))
    stage.loop.run_later()

    assert stage.names() == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("name", "overtaken"),
    [
        ("cancel_order", line("order-1", sku="TABLE")),
        ("change_priority", line("order-1", sku="TABLE")),
        ("return_goods", line("b", sku="RED-CHAIR")),
        ("change_line_quantity", line("b", sku="RED-CHAIR")),
        ("dispatch", line("b", sku="RED-CHAIR")),
        ("receive", line("b")),
        ("block_batch", line("b")),
        ("unblock_batch", line("b")),
        ("change_best_before", line("b")),
        ("expire_batch", line("b")),
        ("mark_overdue", line("b")),
    ],
)
def test_a_command_waits_for_the_batch_that_has_an_earlier_one_of_its_order_or_product(
    name: str, overtaken: Request
) -> None:
    """One that names only an order, or only a batch, too."""
    stage = Stage()
    stage.add(overtaken)
    stage.loop.run_later()

    stage.add(Request(registry.example(f"allocation.{name}")))
    stage.loop.run_later()
    meanwhile = len(stage.pool.batches)
    stage.pool.end(0)

    assert (meanwhile, len(stage.pool.batches)) == (1, 2)


def test_a_command_that_may_be_about_anything_runs_beside_no_earlier_batch() -> None:
    stage = Stage()
    stage.add(line("a"))
    stage.loop.run_later()

    stage.add(line("b", sku="CHAIR"), Request({"batchref": "x"}), line("c", sku="TABLE"))
    stage.loop.run_later()
    meanwhile = stage.names()
    stage.pool.end(0)
    stage.pool.end(1)

    assert meanwhile == [["a"], ["b"]]
    assert stage.names() == [["a"], ["b"], ["None", "c"]]


def test_nothing_runs_beside_a_command_that_may_be_about_anything() -> None:
    stage = Stage()
    stage.add(Request({"batchref": "x"}))
    stage.loop.run_later()

    stage.add(line("a"))
    stage.loop.run_later()

    assert stage.names() == [["None"]]


def test_while_all_waiting_commands_conflict_no_process_is_asked_for_again() -> None:
    stage = Stage(size=1)
    stage.add(line("a"), line("b"), line("c"))

    assert stage.names() == [["a"]]
    assert (stage.pool.free, stage.pool.asking) == (1, [])


@pytest.mark.parametrize(
    "alone",
    [
        {"time_limits": (20, 10)},
        {"request_dict": {"x-delivery-count": 2}},
    ],
)
def test_a_command_with_limits_of_its_own_or_a_suspected_one_is_decided_alone(
    alone: dict[str, Any],
) -> None:
    stage = Stage(processes=1)

    stage.add(
        line("a"),
        line("b", sku="CHAIR", **alone),
        line("c", sku="TABLE"),
        line("d", sku="CHAIR"),
    )
    stage.loop.run_later()
    stage.pool.end(0)
    stage.pool.end(1)

    assert stage.names() == [["a", "c"], ["b"], ["d"]]


def test_nothing_overtakes_a_command_that_is_decided_alone_and_may_be_about_anything() -> None:
    stage = Stage(processes=1)
    suspected = Request({"batchref": "x"}, request_dict={"x-delivery-count": 2})

    stage.add(line("a"), suspected, line("b", sku="TABLE"))
    stage.loop.run_later()
    stage.pool.end(0)
    stage.pool.end(1)

    assert stage.names() == [["a"], ["None"], ["b"]]


def test_a_command_that_failed_once_goes_with_others() -> None:
    stage = Stage()

    stage.add(line("a"), line("b", request_dict={"x-delivery-count": 1}))
    stage.loop.run_later()

    assert stage.names() == [["a", "b"]]


def test_revoked_commands_leave_their_batch_and_their_process_to_others() -> None:
    stage = Stage(processes=1)

    stage.add(line("a", is_revoked=True), line("b"))
    stage.loop.run_later()
    stage.pool.end(0)
    stage.add(line("c", is_revoked=True))
    stage.loop.run_later()

    assert stage.names() == [["b"]]
    assert stage.pool.free == 1


def test_a_lost_connection_drops_what_waits_and_what_runs() -> None:
    stage = Stage()
    stage.add(line("a"))
    stage.loop.run_later()
    stage.add(line("b"))

    stage.batching.forget()
    stage.add(line("b"))
    stage.loop.run_later()

    assert stage.names() == [["a"], ["b"]]


@pytest.mark.parametrize(
    ("kwargs", "expected"),
    [
        ({"sku": "LAMP"}, {"sku LAMP"}),
        ({"orderid": "LAMP"}, {"order LAMP"}),
        ({"orderid": "a", "sku": "LAMP"}, {"order a", "sku LAMP"}),
        (
            {"orderid": "a", "lines": [{"sku": "LAMP"}, {"sku": "CHAIR"}, 5, {"sku": 6}]},
            {"order a", "sku LAMP", "sku CHAIR"},
        ),
        ({"batchref": "b1"}, ANYTHING),
        ({"batchref": "b1", "qty": 5}, ANYTHING),
        ({"batchref": "b1", "best_before": "2030-01-01"}, ANYTHING),
        ({"orderid": "a", "priority": 5}, {"order a"}),
        ({"orderid": "a", "sku": None, "priority": 5}, {"order a"}),
        ({"orderid": "a", "sku": "LAMP", "batchref": "b1", "qty": 1}, {"order a", "sku LAMP"}),
        ({"sku": 5, "orderid": None}, ANYTHING),
    ],
)
def test_a_command_conflicts_by_the_skus_and_the_order_that_it_names(
    kwargs: dict[str, Any], expected: set[str]
) -> None:
    assert keys(Request(kwargs)) == expected


@pytest.mark.parametrize("name", registry.COMMANDS)
def test_the_keys_are_the_skus_and_the_order_of_the_command(name: str) -> None:
    command = codec.parse_command(name, registry.example(name))

    named = {f"sku {sku}" for sku in command.skus}
    named |= {f"order {command.order}"} if command.order else set()
    assert keys(Request(registry.example(name))) == (named or ANYTHING)
