"""A promise only gets earlier by itself."""

from allocation.adapters.memory import MemoryBooks
from allocation.domain.commands import AllocateWaiting
from allocation.domain.events import (
    Allocated,
    BatchEtaChanged,
    Deallocated,
    PromiseChanged,
    ReservationReleased,
    Reserved,
)
from tests.unit.domain.test_product import (
    LATER,
    SOON,
    TODAY,
    YESTERDAY,
    lamp_of,
    lamp_with,
    line,
    on_shelf,
    shipment,
)
from tests.unit.domain.test_reservations import NOON


def test_a_line_that_was_promised_a_ship_moves_to_stock_that_arrives_today() -> None:
    lamp = lamp_with(shipment(9))
    lamp.allocate(line("order-1", 3))
    lamp.create_batch("new", 3)
    follow_ups = lamp.pull_follow_ups()
    lamp.pull_events()

    lamp.allocate_waiting()

    assert follow_ups == [AllocateWaiting("LAMP")]
    assert lamp.pull_events() == [
        Deallocated("order-1", "LAMP", 3, "shipment"),
        Allocated("order-1", "LAMP", 3, "new"),
        PromiseChanged("order-1", "LAMP", 3, "new", SOON, None),
    ]


def test_waiting_lines_are_served_before_promises_improve() -> None:
    lamp = lamp_with(shipment(3))
    lamp.allocate(line("promised", 3))
    lamp.allocate(line("waits", 3))
    lamp.create_batch("new", 3)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [Allocated("waits", "LAMP", 3, "new")]


def test_what_a_line_leaves_when_it_moves_serves_who_waits() -> None:
    lamp = lamp_with(shipment(4))
    lamp.allocate(line("promised", 3))
    lamp.allocate(line("waits", 4))
    lamp.create_batch("new", 3)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        Deallocated("promised", "LAMP", 3, "shipment"),
        Allocated("promised", "LAMP", 3, "new"),
        PromiseChanged("promised", "LAMP", 3, "new", SOON, None),
        Allocated("waits", "LAMP", 4, "shipment", SOON),
    ]


def test_promises_improve_by_priority_then_age() -> None:
    lamp = lamp_with(shipment(9))
    lamp.allocate(line("older", 3))
    lamp.allocate(line("younger", 3))
    lamp.allocate(line("urgent", 3, priority=1))
    lamp.create_batch("new", 6)
    lamp.pull_events()

    lamp.allocate_waiting()

    moved = [event for event in lamp.pull_events() if isinstance(event, Allocated)]
    assert moved == [
        Allocated("urgent", "LAMP", 3, "new"),
        Allocated("older", "LAMP", 3, "new"),
    ]


def test_a_reservation_improves_and_ends_when_it_would_have() -> None:
    lamp = lamp_with(shipment(9))
    lamp.reserve(line("order-1", 3), NOON)
    lamp.create_batch("new", 3)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        ReservationReleased("order-1", "LAMP", 3, "shipment", "moved"),
        Reserved("order-1", "LAMP", 3, "new", None, NOON),
        PromiseChanged("order-1", "LAMP", 3, "new", SOON, None),
    ]


def test_a_line_moves_only_whole() -> None:
    lamp = lamp_with(shipment(9))
    lamp.allocate(line("order-1", 3))
    lamp.create_batch("new", 2)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == []


def test_each_part_of_a_line_improves_for_itself() -> None:
    """The lower part first, the same every time."""
    lamp = lamp_with(shipment(2, SOON, "soon"), shipment(2, LATER, "later"))
    lamp.allocate(line("order-1", 4, split=True))
    lamp.create_batch("new", 2)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        Deallocated("order-1", "LAMP", 2, "later", part=0),
        Allocated("order-1", "LAMP", 2, "new", part=0),
        PromiseChanged("order-1", "LAMP", 2, "new", LATER, None, part=0),
    ]


def test_a_promise_stays_if_the_product_says_so() -> None:
    lamp = lamp_with(shipment(9), improve=False)
    lamp.allocate(line("order-1", 3))
    lamp.create_batch("new", 3)
    lamp.pull_events()
    follow_ups = lamp.pull_follow_ups()

    lamp.allocate_waiting()

    assert (lamp.pull_events(), follow_ups) == ([], [])


def test_promises_improve_once_the_product_allows_it() -> None:
    lamp = lamp_with(shipment(9), on_shelf(3), improve=False)
    lamp.allocate(line("order-1", 3, not_before=SOON))
    lamp.allocate(line("order-2", 6))
    lamp.deallocate("order-1")
    lamp.create_batch("new", 9)
    lamp.pull_events()

    lamp.choose_strategy("earliest_first", "fill", improve=True)
    lamp.allocate_waiting()

    assert lamp.pull_events()[1:] == [
        Deallocated("order-2", "LAMP", 6, "shipment"),
        Allocated("order-2", "LAMP", 6, "new"),
        PromiseChanged("order-2", "LAMP", 6, "new", SOON, None),
    ]


def test_no_promise_moves_to_an_overdue_shipment() -> None:
    lamp = lamp_with(shipment(9), today=TODAY)
    lamp.allocate(line("order-1", 3))
    lamp.create_batch("overdue", 9, eta=YESTERDAY)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == []


def test_a_promise_moves_when_another_shipment_comes_sooner() -> None:
    lamp = lamp_with(shipment(9, SOON, "soon"), shipment(9, LATER, "later"))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    lamp.change_batch_eta("later", None)
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        BatchEtaChanged("later", "LAMP", None),
        Deallocated("order-1", "LAMP", 3, "soon"),
        Allocated("order-1", "LAMP", 3, "later"),
        PromiseChanged("order-1", "LAMP", 3, "later", SOON, None),
    ]


def test_a_promise_of_an_overdue_shipment_moves_to_the_shelf() -> None:
    books = MemoryBooks([shipment(9, YESTERDAY, "overdue")])
    before = lamp_of(books, YESTERDAY)
    before.allocate(line("order-1", 3))
    lamp = lamp_of(books, TODAY, before)
    lamp.create_batch("new", 3)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        Deallocated("order-1", "LAMP", 3, "overdue"),
        Allocated("order-1", "LAMP", 3, "new"),
        PromiseChanged("order-1", "LAMP", 3, "new", YESTERDAY, None),
    ]


def test_one_command_moves_a_bounded_number_of_lines_and_the_follow_up_goes_on() -> None:
    lamp = lamp_with(shipment(501))
    for number in range(501):
        lamp.allocate(line(f"order-{number:03}", 1))
    lamp.create_batch("new", 501)
    lamp.pull_events()
    lamp.pull_follow_ups()

    lamp.allocate_waiting()
    at_once, follow_ups = len(lamp.pull_events()), lamp.pull_follow_ups()
    lamp.allocate_waiting()

    assert (at_once, follow_ups) == (1500, [AllocateWaiting("LAMP")])
    assert lamp.pull_events() == [
        Deallocated("order-500", "LAMP", 1, "shipment"),
        Allocated("order-500", "LAMP", 1, "new"),
        PromiseChanged("order-500", "LAMP", 1, "new", SOON, None),
    ]
    assert lamp.pull_follow_ups() == []
