"""The stock rules, one sentence each."""

from datetime import date
from typing import Any

from allocation.adapters.memory import MemoryBooks
from allocation.domain.books import Batch, OrderLine
from allocation.domain.commands import AllocateWaiting
from allocation.domain.events import (
    Allocated,
    BatchCreated,
    BatchQuantityChanged,
    Deallocated,
    OutOfStock,
)
from allocation.domain.outcomes import Refused, Succeeded
from allocation.domain.product import Product

SOON, LATER = date(2030, 1, 1), date(2030, 2, 1)
TODAY, YESTERDAY = date(2029, 12, 20), date(2029, 12, 19)


def on_shelf(qty: int, batchref: str = "on-shelf") -> Batch:
    return Batch(batchref, "LAMP", qty)


def shipment(qty: int, eta: date = SOON, batchref: str = "shipment") -> Batch:
    return Batch(batchref, "LAMP", qty, eta)


def perishable(qty: int, best_before: date, batchref: str = "perishable") -> Batch:
    return Batch(batchref, "LAMP", qty, best_before=best_before)


def line(orderid: str, qty: int, **wishes: Any) -> OrderLine:
    return OrderLine(orderid, "LAMP", qty, **wishes)


def lamp_with(*batches: Batch, **state: Any) -> Product:
    return Product("LAMP", MemoryBooks(batches), **state)


def lamp_of(books: MemoryBooks, today: date, before: Product | None = None) -> Product:
    """The product of these books on that day, as it was `before`."""
    if before is None:
        return Product("LAMP", books, today=today)
    state = before.strategy, before.waiting, before.improve
    return Product("LAMP", books, before.version, before.sequence, *state, today)


def test_shelf_stock_is_used_before_a_shipment() -> None:
    lamp = lamp_with(shipment(10), on_shelf(10))

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "on-shelf")]


def test_the_earlier_shipment_is_used_before_the_later() -> None:
    lamp = lamp_with(shipment(10, LATER, "later"), shipment(10, SOON, "sooner"))

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "sooner", SOON)]


def test_equal_batches_are_used_by_reference() -> None:
    lamp = lamp_with(on_shelf(10, "b"), on_shelf(10, "a"))

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "a")]


def test_a_line_is_served_whole_from_one_batch() -> None:
    """A line too large for the shelf goes to the shipment that fits it."""
    lamp = lamp_with(on_shelf(2), shipment(10))

    outcome = lamp.allocate(line("order-1", 3))

    assert outcome == Succeeded(status="allocated", batchref="shipment", eta="2030-01-01")


def test_the_same_line_again_changes_nothing_and_gives_the_same_answer() -> None:
    lamp = lamp_with(on_shelf(10))
    first = lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    again = lamp.allocate(line("order-1", 3))

    assert (again, lamp.pull_events(), lamp.version) == (first, [], 1)


def test_the_same_line_with_another_quantity_is_refused() -> None:
    lamp = lamp_with(on_shelf(10))
    lamp.allocate(line("order-1", 3))

    outcome = lamp.allocate(line("order-1", 4))

    assert outcome == Refused("quantity differs", field="qty", qty=4, known_qty=3)


def test_a_line_that_nothing_can_serve_waits_and_is_told_once() -> None:
    lamp = lamp_with(on_shelf(2))

    outcome = lamp.allocate(line("order-1", 3))
    lamp.allocate_waiting()

    assert outcome == Succeeded(status="waiting", batchref=None, eta=None)
    assert lamp.pull_events() == [OutOfStock("order-1", "LAMP", 3)]


def test_a_new_batch_serves_the_waiting_lines_oldest_first() -> None:
    lamp = lamp_with()
    lamp.allocate(line("first", 4))
    lamp.allocate(line("second", 4))
    lamp.allocate(line("third", 1))
    lamp.pull_events()

    lamp.create_batch("new", 5)
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        BatchCreated("new", "LAMP", 5),
        Allocated("first", "LAMP", 4, "new"),
        Allocated("third", "LAMP", 1, "new"),
    ]


def test_a_new_line_never_overtakes_an_older_one_that_the_same_stock_could_serve() -> None:
    """Also in the moment between a new batch and its follow-up."""
    lamp = lamp_with()
    lamp.allocate(line("older", 4))
    lamp.create_batch("new", 5)
    lamp.pull_events()

    outcome = lamp.allocate(line("newer", 4))

    assert outcome == Succeeded(status="waiting", batchref=None, eta=None)
    assert lamp.pull_events() == [
        Allocated("older", "LAMP", 4, "new"),
        OutOfStock("newer", "LAMP", 4),
    ]


def test_a_smaller_new_line_may_use_stock_that_no_older_line_fits() -> None:
    lamp = lamp_with(on_shelf(2))
    lamp.allocate(line("older", 4))

    outcome = lamp.allocate(line("newer", 2))

    assert outcome == Succeeded(status="allocated", batchref="on-shelf", eta=None)


def test_a_shrunk_batch_takes_stock_from_the_lines_that_were_promised_last() -> None:
    lamp = lamp_with(on_shelf(10))
    for orderid in ("first", "second", "third"):
        lamp.allocate(line(orderid, 3))
    lamp.pull_events()

    lamp.change_batch_quantity("on-shelf", 5)

    assert lamp.pull_events() == [
        BatchQuantityChanged("on-shelf", "LAMP", 5),
        Deallocated("third", "LAMP", 3, "on-shelf"),
        Deallocated("second", "LAMP", 3, "on-shelf"),
    ]


def test_a_moved_line_goes_to_the_next_batch() -> None:
    """It is served by the follow-up, with the age that it had."""
    lamp = lamp_with(on_shelf(10), shipment(10))
    lamp.allocate(line("order-1", 8))
    lamp.change_batch_quantity("on-shelf", 5)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 8, "shipment", SOON)]


def test_a_moved_line_that_finds_no_other_stock_waits_and_is_told() -> None:
    lamp = lamp_with(on_shelf(10))
    lamp.allocate(line("order-1", 8))
    lamp.change_batch_quantity("on-shelf", 5)
    lamp.pull_events()

    lamp.allocate_waiting()
    lamp.allocate_waiting()

    assert lamp.pull_events() == [OutOfStock("order-1", "LAMP", 8)]


def test_a_line_that_waits_a_second_time_is_told_a_second_time() -> None:
    lamp = lamp_with()
    lamp.allocate(line("order-1", 3))
    lamp.create_batch("new", 3)
    lamp.allocate_waiting()
    lamp.change_batch_quantity("new", 0)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [OutOfStock("order-1", "LAMP", 3)]


def test_a_moved_line_keeps_its_place_before_younger_ones() -> None:
    lamp = lamp_with(on_shelf(10))
    lamp.allocate(line("older", 8))
    lamp.allocate(line("younger", 8))
    lamp.change_batch_quantity("on-shelf", 0)
    lamp.create_batch("new", 8)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [Allocated("older", "LAMP", 8, "new")]


def test_a_grown_batch_serves_those_who_wait() -> None:
    lamp = lamp_with(on_shelf(2))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    lamp.change_batch_quantity("on-shelf", 3)
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        BatchQuantityChanged("on-shelf", "LAMP", 3),
        Allocated("order-1", "LAMP", 3, "on-shelf"),
    ]


def test_a_line_that_is_given_up_frees_its_stock() -> None:
    lamp = lamp_with(on_shelf(3))
    lamp.allocate(line("order-1", 3))
    lamp.allocate(line("order-2", 3))
    lamp.pull_events()

    outcome = lamp.deallocate("order-1")
    lamp.allocate_waiting()

    assert outcome == Succeeded(status="deallocated")
    assert lamp.pull_events() == [
        Deallocated("order-1", "LAMP", 3, "on-shelf"),
        Allocated("order-2", "LAMP", 3, "on-shelf"),
    ]


def test_a_waiting_line_can_be_given_up() -> None:
    lamp = lamp_with()
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    lamp.deallocate("order-1")

    assert lamp.pull_events() == [Deallocated("order-1", "LAMP", 3, None)]


def test_giving_up_a_line_that_is_not_there_is_refused() -> None:
    lamp = lamp_with()

    outcome = lamp.deallocate("order-1")

    assert outcome == Refused("unknown order line", field="orderid", orderid="order-1", sku="LAMP")


def test_setting_the_quantity_that_it_has_changes_nothing() -> None:
    lamp = lamp_with(on_shelf(3))

    outcome = lamp.change_batch_quantity("on-shelf", 3)

    assert outcome == Succeeded(status="unchanged", batchref="on-shelf", qty=3)
    assert (lamp.pull_events(), lamp.version) == ([], 0)


def test_events_are_numbered_without_a_gap() -> None:
    lamp = lamp_with(on_shelf(3))
    lamp.allocate(line("order-1", 3))
    lamp.allocate(line("order-2", 3))
    lamp.change_batch_quantity("on-shelf", 2)

    assert [event.sequence for event in lamp.pull_events()] == [1, 2, 3, 4]


def test_one_command_serves_a_bounded_number_of_lines_and_leaves_the_rest_to_the_next() -> None:
    """A large delivery does not hold the product for minutes, and nobody overtakes meanwhile."""
    lamp = lamp_with()
    for number in range(1001):
        lamp.allocate(line(f"order-{number:04}", 1))
    lamp.create_batch("new", 1001)
    lamp.pull_events()

    newcomer = lamp.allocate(line("newcomer", 1))
    served_at_once = len(lamp.pull_events())
    while AllocateWaiting("LAMP") in lamp.pull_follow_ups():
        lamp.allocate_waiting()
    rest = lamp.pull_events()

    assert newcomer == Succeeded(status="waiting", batchref=None, eta=None)
    assert served_at_once == 500
    assert rest[-1] == OutOfStock("newcomer", "LAMP", 1)
    assert len(rest) == 502
