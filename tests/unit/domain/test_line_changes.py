"""A line may want fewer pieces, or more."""

from datetime import timedelta

from allocation.adapters.memory import MemoryBooks
from allocation.domain.commands import AllocateWaiting
from allocation.domain.events import (
    Allocated,
    Deallocated,
    LineQuantityChanged,
    OutOfStock,
    ReservationReleased,
    Reserved,
)
from allocation.domain.outcomes import Refused, Succeeded
from tests.unit.domain.test_product import (
    LATER,
    SOON,
    TODAY,
    lamp_of,
    lamp_with,
    line,
    on_shelf,
    perishable,
    shipment,
)
from tests.unit.domain.test_reservations import NOON


def test_fewer_pieces_free_stock_at_once() -> None:
    lamp = lamp_with(on_shelf(5))
    lamp.allocate(line("order-1", 5))
    lamp.allocate(line("order-2", 2))
    lamp.pull_events()

    outcome = lamp.change_line_quantity("order-1", 3)
    follow_ups = lamp.pull_follow_ups()
    lamp.allocate_waiting()

    assert outcome == Succeeded(status="allocated", batchref="on-shelf", eta=None, qty=3)
    assert follow_ups == [AllocateWaiting("LAMP")]
    assert lamp.pull_events() == [
        LineQuantityChanged("order-1", "LAMP", 5, 3),
        Deallocated("order-1", "LAMP", 5, "on-shelf"),
        Allocated("order-1", "LAMP", 3, "on-shelf"),
        Allocated("order-2", "LAMP", 2, "on-shelf"),
    ]


def test_more_pieces_come_from_the_same_batch() -> None:
    lamp = lamp_with(on_shelf(5), shipment(9))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    lamp.change_line_quantity("order-1", 5)

    assert lamp.pull_events() == [
        LineQuantityChanged("order-1", "LAMP", 3, 5),
        Deallocated("order-1", "LAMP", 3, "on-shelf"),
        Allocated("order-1", "LAMP", 5, "on-shelf"),
    ]


def test_more_pieces_than_the_batch_has_move_the_whole_line() -> None:
    lamp = lamp_with(on_shelf(5), shipment(9))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    outcome = lamp.change_line_quantity("order-1", 6)

    assert outcome == Succeeded(
        status="allocated", batchref="shipment", eta=SOON.isoformat(), qty=6
    )
    assert lamp.pull_events()[:3] == [
        LineQuantityChanged("order-1", "LAMP", 3, 6),
        Deallocated("order-1", "LAMP", 3, "on-shelf"),
        Allocated("order-1", "LAMP", 6, "shipment", SOON),
    ]


def test_more_pieces_of_a_line_that_may_be_split_are_another_part() -> None:
    lamp = lamp_with(on_shelf(5), shipment(9))
    lamp.allocate(line("order-1", 3, split=True))
    lamp.pull_events()

    lamp.change_line_quantity("order-1", 6)

    assert lamp.pull_events() == [
        LineQuantityChanged("order-1", "LAMP", 3, 6),
        Allocated("order-1", "LAMP", 3, "shipment", SOON, part=1),
    ]


def test_more_pieces_than_there_are_change_nothing() -> None:
    lamp = lamp_with(on_shelf(5), shipment(5))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    outcome = lamp.change_line_quantity("order-1", 6)

    assert outcome == Refused("not enough stock", field="qty", qty=6, known_qty=3)
    assert (lamp.pull_events(), lamp.sequence, lamp.version) == ([], 1, 1)


def test_a_waiting_line_simply_wants_more() -> None:
    lamp = lamp_with(on_shelf(2))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    outcome = lamp.change_line_quantity("order-1", 6)
    lamp.allocate_waiting()

    assert outcome == Succeeded(status="waiting", batchref=None, eta=None, qty=6)
    assert lamp.pull_events() == [LineQuantityChanged("order-1", "LAMP", 3, 6)]


def test_a_waiting_line_that_wants_fewer_may_be_served() -> None:
    lamp = lamp_with(on_shelf(2))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    lamp.change_line_quantity("order-1", 2)
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        LineQuantityChanged("order-1", "LAMP", 3, 2),
        Allocated("order-1", "LAMP", 2, "on-shelf"),
    ]


def test_a_line_that_wants_more_keeps_its_age() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("older", 3))
    lamp.allocate(line("younger", 3))
    lamp.change_line_quantity("older", 6)
    lamp.block_batch("on-shelf", "recall")
    lamp.create_batch("new", 6)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        Allocated("older", "LAMP", 6, "new"),
        OutOfStock("younger", "LAMP", 3),
    ]


def test_fewer_pieces_take_first_what_waits_then_what_comes_last() -> None:
    lamp = lamp_with(on_shelf(2), shipment(2, SOON, "soon"), shipment(2, LATER, "later"))
    lamp.allocate(line("order-1", 7, split=True))
    lamp.pull_events()

    lamp.change_line_quantity("order-1", 3)

    assert lamp.pull_events() == [
        LineQuantityChanged("order-1", "LAMP", 7, 3),
        Deallocated("order-1", "LAMP", 1, None, part=0),
        Deallocated("order-1", "LAMP", 2, "later", part=3),
        Deallocated("order-1", "LAMP", 2, "soon", part=2),
        Allocated("order-1", "LAMP", 1, "soon", SOON, part=2),
    ]


def test_a_reservation_keeps_its_end_when_it_wants_more() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.reserve(line("order-1", 3), NOON)
    lamp.pull_events()

    outcome = lamp.change_line_quantity("order-1", 4)

    assert outcome == Succeeded(
        status="reserved", batchref="on-shelf", eta=None, expires_at=NOON.isoformat(), qty=4
    )
    assert lamp.pull_events() == [
        LineQuantityChanged("order-1", "LAMP", 3, 4),
        ReservationReleased("order-1", "LAMP", 3, "on-shelf", "moved"),
        Reserved("order-1", "LAMP", 4, "on-shelf", None, NOON),
    ]


def test_the_quantity_that_it_has_changes_nothing() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    outcome = lamp.change_line_quantity("order-1", 3)

    assert outcome == Succeeded(status="allocated", batchref="on-shelf", eta=None, qty=3)
    assert (lamp.pull_events(), lamp.version) == ([], 1)


def test_what_has_left_cannot_be_wanted_less() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None, 3)
    lamp.pull_events()

    outcome = lamp.change_line_quantity("order-1", 2)

    assert outcome == Refused("dispatched", field="qty", qty=2, known_qty=3)
    assert lamp.pull_events() == []


def test_the_rest_of_what_has_left_can_be_given_up() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None, 3)
    lamp.pull_events()

    outcome = lamp.change_line_quantity("order-1", 3)

    assert outcome == Succeeded(status="dispatched", batchref="on-shelf", eta=None, qty=3)
    assert lamp.pull_events() == [
        LineQuantityChanged("order-1", "LAMP", 5, 3),
        Deallocated("order-1", "LAMP", 2, "on-shelf"),
    ]


def test_a_line_that_has_left_wants_no_more() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None)

    outcome = lamp.change_line_quantity("order-1", 6)

    assert outcome == Refused("dispatched", field="qty", qty=6, known_qty=5)


def test_a_line_that_is_not_there_cannot_want_more() -> None:
    lamp = lamp_with(on_shelf(9))

    outcome = lamp.change_line_quantity("order-1", 6)

    assert outcome == Refused("unknown order line", field="orderid", orderid="order-1", sku="LAMP")


def test_more_pieces_overtake_no_older_line_that_the_same_stock_could_serve() -> None:
    """In the moment between a new batch and its follow-up."""
    lamp = lamp_with(on_shelf(3))
    lamp.allocate(line("older", 4))
    lamp.allocate(line("younger", 3))
    lamp.create_batch("new", 6)
    lamp.pull_events()

    outcome = lamp.change_line_quantity("younger", 6)

    assert outcome == Refused("not enough stock", field="qty", qty=6, known_qty=3)
    assert lamp.pull_events() == [Allocated("older", "LAMP", 4, "new")]


def test_more_pieces_do_not_come_from_a_batch_that_is_no_longer_fresh_enough() -> None:
    milk = perishable(9, TODAY + timedelta(days=5))
    books = MemoryBooks([milk, shipment(9)])
    before = lamp_of(books, TODAY)
    before.allocate(line("order-1", 3, fresh_days=5))
    lamp = lamp_of(books, TODAY + timedelta(days=1), before)

    lamp.change_line_quantity("order-1", 4)

    assert lamp.pull_events()[:3] == [
        LineQuantityChanged("order-1", "LAMP", 3, 4),
        Deallocated("order-1", "LAMP", 3, "perishable"),
        Allocated("order-1", "LAMP", 4, "shipment", SOON),
    ]


def test_a_younger_line_that_wants_fewer_leaves_its_pieces_to_who_waits() -> None:
    lamp = lamp_with()
    lamp.allocate(line("first", 4))
    lamp.allocate(line("second", 2))
    lamp.create_batch("new", 4)
    lamp.allocate_waiting()
    lamp.pull_events()

    lamp.change_line_quantity("first", 2)
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        LineQuantityChanged("first", "LAMP", 4, 2),
        Deallocated("first", "LAMP", 4, "new"),
        Allocated("first", "LAMP", 2, "new"),
        Allocated("second", "LAMP", 2, "new"),
    ]
