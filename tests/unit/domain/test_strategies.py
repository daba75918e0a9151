"""The named orders in which batches serve, as tables."""

from datetime import date
from itertools import permutations

import pytest

from allocation.domain.books import Batch
from allocation.domain.events import Allocated, StrategyChosen
from allocation.domain.outcomes import Succeeded
from allocation.domain.strategies import STRATEGIES, first_fit
from tests.unit.domain.test_product import LATER, SOON, lamp_with, line

NEXT_YEAR = date(2031, 1, 1)
TODAY = date(2029, 12, 1)

STOCK = {
    "shelf": Batch("shelf", "LAMP", 9),
    "shelf-good-till-later": Batch("shelf-good-till-later", "LAMP", 4, best_before=LATER),
    "soon": Batch("soon", "LAMP", 5, SOON),
    "soon-too": Batch("soon-too", "LAMP", 5, SOON),
    "later": Batch("later", "LAMP", 3, LATER),
    "later-good-till-next-year": Batch(
        "later-good-till-next-year", "LAMP", 7, LATER, best_before=NEXT_YEAR
    ),
}
ORDERS = {
    "earliest_first": [
        "shelf",
        "shelf-good-till-later",
        "soon",
        "soon-too",
        "later",
        "later-good-till-next-year",
    ],
    "first_to_expire": [
        "shelf-good-till-later",
        "later-good-till-next-year",
        "shelf",
        "soon",
        "soon-too",
        "later",
    ],
    "fewest_open": [
        "later",
        "shelf-good-till-later",
        "soon",
        "soon-too",
        "later-good-till-next-year",
        "shelf",
    ],
}


def test_every_strategy_has_its_table() -> None:
    assert ORDERS.keys() == STRATEGIES.keys()


@pytest.mark.parametrize("strategy", ORDERS)
def test_a_strategy_puts_batches_in_one_order_however_they_come(strategy: str) -> None:
    """The same for each of their 720 orders."""
    sort = STRATEGIES[strategy].sort

    orders = {
        tuple(batch.batchref for batch in sort(given, TODAY))
        for given in permutations(STOCK.values())
    }

    assert orders == {tuple(ORDERS[strategy])}


@pytest.mark.parametrize(
    ("strategy", "qty", "batchref"),
    [
        ("earliest_first", 4, "shelf"),
        ("earliest_first", 9, "shelf"),
        ("first_to_expire", 4, "shelf-good-till-later"),
        ("first_to_expire", 5, "later-good-till-next-year"),
        ("first_to_expire", 8, "shelf"),
        ("fewest_open", 3, "later"),
        ("fewest_open", 4, "shelf-good-till-later"),
        ("fewest_open", 5, "soon"),
        ("fewest_open", 6, "later-good-till-next-year"),
        ("fewest_open", 10, None),
    ],
)
def test_the_first_batch_that_is_enough_serves(
    strategy: str, qty: int, batchref: str | None
) -> None:
    chosen = first_fit(STRATEGIES[strategy].sort(STOCK.values(), TODAY), qty)

    assert (chosen and chosen.batchref) == batchref


def test_a_product_serves_by_the_strategy_that_was_chosen_for_it() -> None:
    """From the next line on; what is promised stays."""
    lamp = lamp_with(Batch("shelf", "LAMP", 9), Batch("small", "LAMP", 4, LATER))
    lamp.allocate(line("order-1", 2))

    outcome = lamp.choose_strategy("fewest_open")
    lamp.allocate(line("order-2", 4))

    assert outcome == Succeeded(status="changed", strategy="fewest_open")
    assert lamp.pull_events() == [
        Allocated("order-1", "LAMP", 2, "shelf"),
        StrategyChosen("LAMP", "fewest_open"),
        Allocated("order-2", "LAMP", 4, "small", LATER),
    ]
    assert lamp.choose_strategy("fewest_open") == Succeeded(
        status="unchanged", strategy="fewest_open"
    )


def test_each_promise_may_change_which_batch_is_left_with_the_least() -> None:
    """Lines that are served together go by what the ones before them have left."""
    lamp = lamp_with()
    lamp.choose_strategy("fewest_open")
    for number in range(3):
        lamp.allocate(line(f"order-{number}", 2))
    lamp.create_batch("a", 5)
    lamp.create_batch("b", 4)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert [event.batchref for event in lamp.pull_events() if isinstance(event, Allocated)] == [
        "b",
        "b",
        "a",
    ]
