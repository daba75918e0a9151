"""A change may be made only if what it was based on is still so."""

from collections.abc import Callable

import pytest

from allocation.adapters.memory import MemoryBooks
from allocation.domain.books import line_version
from allocation.domain.outcomes import Outcome, Refused
from allocation.domain.product import Product
from tests.unit.domain.test_product import SOON, TODAY, lamp_of, line, on_shelf

OF_BATCH: dict[str, Callable[[Product, str], Outcome]] = {
    "quantity": lambda lamp, version: lamp.change_batch_quantity("on-shelf", 4, version),
    "eta": lambda lamp, version: lamp.change_batch_eta("on-shelf", SOON, version),
    "best before": lambda lamp, version: lamp.change_best_before("on-shelf", SOON, version),
    "block": lambda lamp, version: lamp.block_batch("on-shelf", "recall", version),
}
OF_LINE: dict[str, Callable[[Product, str], Outcome]] = {
    "quantity": lambda lamp, version: lamp.change_line_quantity("order-1", 4, version),
    "priority": lambda lamp, version: lamp.change_priority("order-1", 4, version),
    "cancel": lambda lamp, version: lamp.deallocate("order-1", version),
}


@pytest.mark.parametrize("change", OF_BATCH.values(), ids=OF_BATCH)
def test_a_batch_that_changed_meanwhile_stays(change: Callable[[Product, str], Outcome]) -> None:
    books = MemoryBooks([on_shelf(9)])
    lamp = lamp_of(books, TODAY)
    seen = books.batches["on-shelf"].version
    lamp.receive("on-shelf", 1)
    lamp.pull_events()

    outcome = change(lamp, seen)

    known = books.batches["on-shelf"].version
    assert outcome == Refused("changed meanwhile", field="expected_version", version=known)
    assert (lamp.pull_events(), lamp.version) == ([], 1)


@pytest.mark.parametrize("change", OF_BATCH.values(), ids=OF_BATCH)
def test_each_change_of_a_batch_changes_its_version(
    change: Callable[[Product, str], Outcome],
) -> None:
    books = MemoryBooks([on_shelf(9)])
    lamp = lamp_of(books, TODAY)
    seen = books.batches["on-shelf"].version

    change(lamp, seen)

    assert isinstance(change(lamp, seen), Refused)


def test_a_promise_leaves_the_version_of_its_batch() -> None:
    books = MemoryBooks([on_shelf(9)])
    lamp = lamp_of(books, TODAY)
    seen = books.batches["on-shelf"].version

    lamp.allocate(line("order-1", 3))

    assert books.batches["on-shelf"].version == seen


def test_an_unblocked_batch_is_the_one_that_was_seen_before_the_block() -> None:
    """The version says what the batch is like, and not how often it changed."""
    books = MemoryBooks([on_shelf(9)])
    lamp = lamp_of(books, TODAY)
    seen = books.batches["on-shelf"].version
    lamp.block_batch("on-shelf", "recall")

    outdated = lamp.unblock_batch("on-shelf", seen)
    lamp.unblock_batch("on-shelf", books.batches["on-shelf"].version)

    assert isinstance(outdated, Refused)
    assert books.batches["on-shelf"].version == seen


@pytest.mark.parametrize("change", OF_LINE.values(), ids=OF_LINE)
def test_a_line_that_changed_meanwhile_stays(change: Callable[[Product, str], Outcome]) -> None:
    books = MemoryBooks([on_shelf(9)])
    lamp = lamp_of(books, TODAY)
    lamp.allocate(line("order-1", 5))
    seen = line_version(books.parts("order-1"))
    lamp.dispatch("order-1", None, 2)
    lamp.pull_events()

    outcome = change(lamp, seen)

    known = line_version(books.parts("order-1"))
    assert outcome == Refused("changed meanwhile", field="expected_version", version=known)
    assert lamp.pull_events() == []


@pytest.mark.parametrize("change", OF_LINE.values(), ids=OF_LINE)
def test_each_change_of_a_line_changes_its_version(
    change: Callable[[Product, str], Outcome],
) -> None:
    books = MemoryBooks([on_shelf(9)])
    lamp = lamp_of(books, TODAY)
    lamp.allocate(line("order-1", 5))
    seen = line_version(books.parts("order-1"))

    change(lamp, seen)

    assert isinstance(change(lamp, seen), Refused)


def test_a_strategy_that_changed_meanwhile_stays() -> None:
    lamp = lamp_of(MemoryBooks(), TODAY)
    seen = lamp.strategy_version
    lamp.choose_strategy("fewest_open", "in_order")
    lamp.pull_events()

    outcome = lamp.choose_strategy("first_to_expire", expected_version=seen)

    assert outcome == Refused(
        "changed meanwhile", field="expected_version", version=lamp.strategy_version
    )
    assert (lamp.pull_events(), lamp.strategy) == ([], "fewest_open")


def test_the_waiting_rule_and_improving_belong_to_the_version_of_the_strategy() -> None:
    lamp = lamp_of(MemoryBooks(), TODAY)
    versions = {lamp.strategy_version}
    lamp.choose_strategy("earliest_first", "in_order")
    versions.add(lamp.strategy_version)
    lamp.choose_strategy("earliest_first", "in_order", improve=False)
    versions.add(lamp.strategy_version)

    assert len(versions) == 3
