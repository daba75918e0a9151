"""The more urgent line is served first, and gives way last."""

from allocation.domain.commands import AllocateWaiting
from allocation.domain.events import (
    Allocated,
    BatchQuantityChanged,
    Deallocated,
    OutOfStock,
    PriorityChanged,
    ReservationReleased,
)
from allocation.domain.outcomes import Refused, Succeeded
from tests.unit.domain.test_product import lamp_with, line, on_shelf
from tests.unit.domain.test_reservations import NOON


def test_waiting_lines_are_served_by_priority_then_age() -> None:
    lamp = lamp_with()
    for orderid, priority in (("older", 0), ("younger", 0), ("urgent", 5), ("most-urgent", 9)):
        lamp.allocate(line(orderid, 2, priority=priority))
    lamp.create_batch("new", 6)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        Allocated("most-urgent", "LAMP", 2, "new"),
        Allocated("urgent", "LAMP", 2, "new"),
        Allocated("older", "LAMP", 2, "new"),
    ]


def test_on_a_shortage_the_lower_priority_gives_way_first() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("first", 3))
    lamp.allocate(line("urgent", 3, priority=5))
    lamp.allocate(line("last", 3))
    lamp.pull_events()

    lamp.change_batch_quantity("on-shelf", 3)

    assert lamp.pull_events() == [
        BatchQuantityChanged("on-shelf", "LAMP", 3),
        Deallocated("last", "LAMP", 3, "on-shelf"),
        Deallocated("first", "LAMP", 3, "on-shelf"),
    ]


def test_a_reservation_gives_way_before_an_allocation_however_urgent_it_is() -> None:
    lamp = lamp_with(on_shelf(6))
    lamp.allocate(line("allocated", 3))
    lamp.reserve(line("reserved", 3, priority=9), NOON)
    lamp.pull_events()

    lamp.change_batch_quantity("on-shelf", 3)

    assert lamp.pull_events() == [
        BatchQuantityChanged("on-shelf", "LAMP", 3),
        ReservationReleased("reserved", "LAMP", 3, "on-shelf", "moved"),
    ]


def test_a_waiting_line_that_becomes_urgent_is_served_first() -> None:
    lamp = lamp_with()
    lamp.allocate(line("older", 2))
    lamp.allocate(line("younger", 2))
    outcome = lamp.change_priority("younger", 5)
    lamp.create_batch("new", 2)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert outcome == Succeeded(status="changed", priority=5)
    assert lamp.pull_events() == [Allocated("younger", "LAMP", 2, "new")]


def test_a_change_of_priority_is_published() -> None:
    lamp = lamp_with(on_shelf(2))
    lamp.allocate(line("order-1", 2))
    lamp.pull_events()

    lamp.change_priority("order-1", 5)

    assert lamp.pull_events() == [PriorityChanged("order-1", "LAMP", 5)]


def test_a_line_that_becomes_less_urgent_gives_way_first() -> None:
    lamp = lamp_with(on_shelf(6))
    lamp.allocate(line("older", 3, priority=5))
    lamp.allocate(line("younger", 3, priority=5))
    lamp.change_priority("older", 4)
    lamp.pull_events()

    lamp.change_batch_quantity("on-shelf", 3)

    assert lamp.pull_events() == [
        BatchQuantityChanged("on-shelf", "LAMP", 3),
        Deallocated("older", "LAMP", 3, "on-shelf"),
    ]


def test_a_promise_is_not_taken_away_for_a_more_urgent_line() -> None:
    lamp = lamp_with(on_shelf(3))
    lamp.allocate(line("first", 3))
    lamp.pull_events()

    lamp.allocate(line("urgent", 3, priority=9))

    assert lamp.pull_events() == [OutOfStock("urgent", "LAMP", 3)]


def test_under_in_order_a_change_of_priority_may_let_others_pass() -> None:
    lamp = lamp_with(on_shelf(3), waiting="in_order")
    lamp.allocate(line("large", 9))
    lamp.allocate(line("small", 3))
    lamp.pull_follow_ups()
    lamp.pull_events()

    lamp.change_priority("small", 1)
    follow_ups = lamp.pull_follow_ups()
    lamp.allocate_waiting()

    assert follow_ups == [AllocateWaiting("LAMP")]
    assert lamp.pull_events() == [
        PriorityChanged("small", "LAMP", 1),
        Allocated("small", "LAMP", 3, "on-shelf"),
    ]


def test_the_priority_that_it_has_changes_nothing() -> None:
    lamp = lamp_with(on_shelf(3))
    lamp.allocate(line("order-1", 3, priority=5))
    lamp.pull_events()

    outcome = lamp.change_priority("order-1", 5)

    assert (outcome, lamp.pull_events(), lamp.version) == (
        Succeeded(status="unchanged", priority=5),
        [],
        1,
    )


def test_an_unknown_line_has_no_priority() -> None:
    lamp = lamp_with(on_shelf(3))

    outcome = lamp.change_priority("order-1", 5)

    assert outcome == Refused("unknown order line", field="orderid", orderid="order-1", sku="LAMP")


def test_a_repeated_line_keeps_its_priority_and_says_so() -> None:
    lamp = lamp_with(on_shelf(3))
    lamp.allocate(line("order-1", 3, priority=5))

    outcome = lamp.allocate(line("order-1", 3))

    assert outcome == Succeeded(status="allocated", batchref="on-shelf", eta=None, priority=5)
