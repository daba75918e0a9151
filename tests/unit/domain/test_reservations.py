"""Reservations, one sentence each."""

from datetime import UTC, datetime, timedelta

from allocation.domain.commands import AllocateWaiting, Expire
from allocation.domain.events import (
    Allocated,
    BatchQuantityChanged,
    Deallocated,
    Dispatched,
    OutOfStock,
    ReservationReleased,
    Reserved,
)
from allocation.domain.outcomes import Refused, Succeeded
from allocation.domain.product import Product
from tests.unit.domain.test_product import SOON, lamp_with, line, on_shelf, shipment

NOON = datetime(2029, 12, 1, 12, tzinfo=UTC)
LATER = NOON + timedelta(minutes=15)


def reserved(*orderids: str) -> Product:
    """Ten pieces, of which each order holds three until noon; nothing of it to be told."""
    lamp = lamp_with(on_shelf(10))
    for orderid in orderids:
        lamp.reserve(line(orderid, 3), NOON)
    lamp.pull_events()
    lamp.pull_follow_ups()
    return lamp


def test_a_reservation_holds_stock_as_an_allocation_does() -> None:
    """And leaves behind what will end it."""
    lamp = lamp_with(shipment(10))

    outcome = lamp.reserve(line("order-1", 3), NOON)

    assert outcome == Succeeded(
        status="reserved", batchref="shipment", eta="2030-01-01", expires_at=NOON.isoformat()
    )
    assert lamp.pull_events() == [Reserved("order-1", "LAMP", 3, "shipment", SOON, NOON)]
    assert lamp.pull_follow_ups() == [Expire("order-1", NOON)]


def test_a_reservation_that_nothing_can_serve_waits() -> None:
    lamp = lamp_with()
    waiting = lamp.reserve(line("order-1", 3), NOON)
    lamp.create_batch("new", 3)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert waiting == Succeeded(
        status="waiting", batchref=None, eta=None, expires_at=NOON.isoformat()
    )
    assert lamp.pull_events() == [Reserved("order-1", "LAMP", 3, "new", None, NOON)]


def test_the_same_reservation_again_changes_nothing() -> None:
    lamp = reserved("order-1")

    again = lamp.reserve(line("order-1", 3), LATER)

    assert again == Succeeded(
        status="reserved", batchref="on-shelf", eta=None, expires_at=NOON.isoformat()
    )
    assert (lamp.pull_events(), lamp.pull_follow_ups()) == ([], [])


def test_a_confirmed_reservation_is_an_allocation() -> None:
    """Only now the warehouse hears of it; it can't be confirmed twice, nor expire."""
    lamp = reserved("order-1")

    assert lamp.confirm("order-1")
    assert not lamp.confirm("order-1")
    assert not lamp.expire("order-1", NOON)

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "on-shelf")]


def test_a_waiting_reservation_that_is_confirmed_waits_for_an_allocation() -> None:
    lamp = lamp_with()
    lamp.reserve(line("order-1", 3), NOON)
    lamp.confirm("order-1")
    lamp.create_batch("new", 3)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "new")]


def test_a_reservation_that_expires_frees_its_stock() -> None:
    lamp = reserved("order-1")
    lamp.allocate(line("waiting", 9))
    lamp.pull_events()

    assert lamp.expire("order-1", NOON)

    assert lamp.pull_events() == [ReservationReleased("order-1", "LAMP", 3, "on-shelf", "expired")]
    assert lamp.pull_follow_ups() == [AllocateWaiting("LAMP")]


def test_a_reservation_can_be_extended_once() -> None:
    """Its first end passes, and its second does not."""
    lamp = reserved("order-1")
    assert lamp.can_extend("order-1")

    lamp.extend("order-1", LATER)

    assert not lamp.can_extend("order-1")
    assert not lamp.expire("order-1", NOON)
    assert lamp.pull_events() == [Reserved("order-1", "LAMP", 3, "on-shelf", None, LATER)]
    assert lamp.pull_follow_ups() == [Expire("order-1", LATER)]
    assert lamp.expire("order-1", LATER)


def test_a_released_reservation_is_gone() -> None:
    """What was confirmed is not touched by it."""
    lamp = reserved("order-1", "order-2")
    lamp.confirm("order-2")
    lamp.pull_events()

    assert lamp.release("order-1")
    assert not lamp.release("order-2")

    assert lamp.pull_events() == [ReservationReleased("order-1", "LAMP", 3, "on-shelf", "released")]


def test_a_held_line_is_not_allocated_behind_its_back() -> None:
    lamp = reserved("order-1")

    outcome = lamp.allocate(line("order-1", 3))

    assert outcome == Refused("reserved", field="orderid", orderid="order-1", sku="LAMP")


def test_what_is_only_held_gives_way_before_what_is_sold() -> None:
    lamp = reserved("basket", "sold")
    lamp.confirm("sold")
    lamp.pull_events()

    lamp.change_batch_quantity("on-shelf", 4)

    assert lamp.pull_events() == [
        BatchQuantityChanged("on-shelf", "LAMP", 4),
        ReservationReleased("basket", "LAMP", 3, "on-shelf", "moved"),
    ]
    lamp.allocate_waiting()
    assert lamp.pull_events() == [OutOfStock("basket", "LAMP", 3)]


def test_who_ordered_travels_with_the_line() -> None:
    lamp = lamp_with(on_shelf(10))
    wanted = line("order-1", 3)
    lamp.reserve(type(wanted)("order-1", "LAMP", 3, "customer-7"), NOON)

    lamp.confirm("order-1")

    assert [getattr(event, "customer", None) for event in lamp.pull_events()] == [
        "customer-7",
        "customer-7",
    ]


def test_dispatched_goods_are_off_the_books() -> None:
    lamp = lamp_with(on_shelf(10))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    first = lamp.dispatch("order-1", "on-shelf")
    second = lamp.dispatch("order-1", None)

    assert first == second == Succeeded(status="dispatched", batchref="on-shelf")
    assert lamp.pull_events() == [Dispatched("order-1", "LAMP", 3, "on-shelf")]
    assert lamp.write_off("on-shelf", 8, "stolen") == Refused(
        "quantity too large", field="qty", qty=8, known_qty=7
    )


def test_a_dispatched_line_neither_moves_nor_is_given_up() -> None:
    lamp = lamp_with(on_shelf(10))
    lamp.allocate(line("order-1", 3))
    lamp.dispatch("order-1", None)
    lamp.pull_events()

    given_up = lamp.deallocate("order-1")
    lamp.change_batch_quantity("on-shelf", 0)
    lamp.change_batch_eta("on-shelf", SOON)

    assert given_up == Refused("dispatched", field="orderid", orderid="order-1", sku="LAMP")
    assert not [event for event in lamp.pull_events() if isinstance(event, Deallocated)]
    assert lamp.allocate(line("order-1", 3)) == Succeeded(
        status="dispatched", batchref="on-shelf", eta="2030-01-01"
    )


def test_only_what_is_allocated_can_be_dispatched_and_from_its_own_batch() -> None:
    lamp = reserved("held")
    lamp.allocate(line("waiting", 50))
    lamp.allocate(line("sold", 3))

    told = [lamp.dispatch(orderid, None) for orderid in ("held", "waiting", "unknown")]

    assert [outcome.reason for outcome in told if isinstance(outcome, Refused)] == [
        "not allocated",
        "not allocated",
        "unknown order line",
    ]
    assert lamp.dispatch("sold", "other") == Refused(
        "another batch", field="batchref", batchref="other", known="on-shelf"
    )
