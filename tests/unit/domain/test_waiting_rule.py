"""Fill: a waiting line that does not fit is skipped. In order: nothing is served past it."""

from allocation.domain.commands import AllocateWaiting
from allocation.domain.events import (
    Allocated,
    BatchCreated,
    Deallocated,
    OutOfStock,
    ProductCreated,
    StrategyChosen,
)
from allocation.domain.outcomes import Refused, Succeeded
from tests.unit.domain.test_product import lamp_with, line, on_shelf, shipment


def test_in_order_a_small_line_does_not_overtake_a_large_one() -> None:
    lamp = lamp_with(on_shelf(3), waiting="in_order")
    lamp.allocate(line("large", 9))

    outcome = lamp.allocate(line("small", 3))

    assert outcome == Succeeded(status="waiting", batchref=None, eta=None)
    assert lamp.pull_events() == [OutOfStock("large", "LAMP", 9), OutOfStock("small", "LAMP", 3)]


def test_in_order_a_more_urgent_line_may_pass() -> None:
    lamp = lamp_with(on_shelf(3), waiting="in_order")
    lamp.allocate(line("large", 9))
    lamp.pull_events()

    lamp.allocate(line("urgent", 3, priority=1))

    assert lamp.pull_events() == [Allocated("urgent", "LAMP", 3, "on-shelf")]


def test_in_order_new_stock_serves_the_first_then_the_next() -> None:
    lamp = lamp_with(waiting="in_order")
    for orderid, qty in (("first", 4), ("second", 4), ("third", 1)):
        lamp.allocate(line(orderid, qty))
    lamp.create_batch("new", 5)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [Allocated("first", "LAMP", 4, "new")]


def test_in_order_those_behind_are_served_when_the_first_is_given_up() -> None:
    lamp = lamp_with(on_shelf(3), waiting="in_order")
    lamp.allocate(line("large", 9))
    lamp.allocate(line("small", 3))
    lamp.pull_events()

    lamp.deallocate("large")
    follow_ups = lamp.pull_follow_ups()
    lamp.allocate_waiting()

    assert follow_ups == [AllocateWaiting("LAMP")]
    assert lamp.pull_events() == [
        Deallocated("large", "LAMP", 9, None),
        Allocated("small", "LAMP", 3, "on-shelf"),
    ]


def test_in_order_a_line_that_may_be_split_takes_what_there_is() -> None:
    lamp = lamp_with(on_shelf(3), waiting="in_order")
    lamp.allocate(line("large", 9, split=True))
    lamp.allocate(line("small", 1))
    lamp.create_batch("new", 5)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [Allocated("large", "LAMP", 5, "new", part=2, waiting=1)]


def test_in_order_a_line_that_holds_stock_does_not_grow_past_one_that_waits() -> None:
    lamp = lamp_with(on_shelf(5), waiting="in_order")
    lamp.allocate(line("large", 9))
    lamp.allocate(line("urgent", 3, priority=1))
    lamp.change_priority("urgent", 0)
    lamp.pull_events()

    outcome = lamp.change_line_quantity("urgent", 4)

    assert outcome == Refused("not enough stock", field="qty", qty=4, known_qty=3)
    assert lamp.pull_events() == []


def test_in_order_an_older_line_may_grow() -> None:
    lamp = lamp_with(on_shelf(5), waiting="in_order")
    lamp.allocate(line("older", 3))
    lamp.allocate(line("large", 9))

    outcome = lamp.change_line_quantity("older", 5)

    assert outcome == Succeeded(status="allocated", batchref="on-shelf", eta=None, qty=5)


def test_in_order_no_promise_improves_past_a_line_that_waits() -> None:
    lamp = lamp_with(shipment(3), waiting="in_order")
    lamp.allocate(line("promised", 3))
    lamp.allocate(line("large", 9))
    lamp.create_batch("new", 3)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == []


def test_in_order_an_order_that_wants_all_or_nothing_does_not_overtake() -> None:
    lamp = lamp_with(on_shelf(3), waiting="in_order")
    lamp.allocate(line("large", 9))
    lamp.pull_events()

    refused = lamp.cannot_promise(line("small", 3), hold=False)

    assert refused == Refused("not all in stock", field="lines", orderid="small", sku="LAMP")


def test_a_product_that_fills_again_serves_who_was_held_back() -> None:
    lamp = lamp_with(on_shelf(3), waiting="in_order")
    lamp.allocate(line("large", 9))
    lamp.allocate(line("small", 3))
    lamp.pull_events()

    outcome = lamp.choose_strategy("earliest_first", "fill")
    follow_ups = lamp.pull_follow_ups()
    lamp.allocate_waiting()

    assert (outcome, follow_ups) == (
        Succeeded(status="changed", strategy="earliest_first"),
        [AllocateWaiting("LAMP")],
    )
    assert lamp.pull_events() == [
        StrategyChosen("LAMP", "earliest_first", "fill", improve=True),
        Allocated("small", "LAMP", 3, "on-shelf"),
    ]


def test_a_product_is_known_before_its_first_batch() -> None:
    lamp = lamp_with()

    outcome = lamp.create("first_to_expire", "in_order", improve=False)
    lamp.allocate(line("pre-order", 3))

    assert outcome == Succeeded(status="created", sku="LAMP")
    assert lamp.pull_events() == [
        ProductCreated("LAMP", "first_to_expire", "in_order", improve=False),
        OutOfStock("pre-order", "LAMP", 3),
    ]


def test_a_pre_order_is_served_by_the_first_batch() -> None:
    lamp = lamp_with()
    lamp.create("earliest_first", "fill", improve=True)
    lamp.allocate(line("pre-order", 3))
    lamp.pull_events()

    lamp.create_batch("first", 3)
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        BatchCreated("first", "LAMP", 3),
        Allocated("pre-order", "LAMP", 3, "first"),
    ]
