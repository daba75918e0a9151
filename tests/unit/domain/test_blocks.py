"""A batch that is blocked serves no line: quality hold, or recall."""

from allocation.domain.commands import AllocateWaiting
from allocation.domain.events import (
    Allocated,
    BatchBlocked,
    BatchEtaChanged,
    BatchQuantityChanged,
    BatchUnblocked,
    Deallocated,
    OutOfStock,
    Received,
    ReservationReleased,
    Reserved,
)
from allocation.domain.outcomes import Refused, Succeeded
from tests.unit.domain.test_product import SOON, lamp_with, line, on_shelf, shipment
from tests.unit.domain.test_reservations import NOON


def test_a_blocked_batch_serves_no_line() -> None:
    lamp = lamp_with(on_shelf(5))
    outcome = lamp.block_batch("on-shelf", "recall")

    lamp.allocate(line("order-1", 3))

    assert outcome == Succeeded(status="blocked", batchref="on-shelf")
    assert lamp.pull_events() == [
        BatchBlocked("on-shelf", "LAMP", 5, "recall"),
        OutOfStock("order-1", "LAMP", 3),
    ]


def test_the_lines_of_a_blocked_batch_move_or_wait() -> None:
    lamp = lamp_with(on_shelf(9), shipment(4))
    lamp.allocate(line("moves", 3))
    lamp.allocate(line("waits", 3))
    lamp.pull_events()

    lamp.block_batch("on-shelf", "recall")
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        BatchBlocked("on-shelf", "LAMP", 9, "recall"),
        Deallocated("waits", "LAMP", 3, "on-shelf"),
        Deallocated("moves", "LAMP", 3, "on-shelf"),
        Allocated("moves", "LAMP", 3, "shipment", SOON),
        OutOfStock("waits", "LAMP", 3),
    ]


def test_a_reservation_on_a_blocked_batch_moves_and_ends_when_it_would_have() -> None:
    lamp = lamp_with(on_shelf(9), shipment(9))
    lamp.reserve(line("order-1", 3), NOON)
    lamp.pull_events()

    lamp.block_batch("on-shelf", "recall")
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        BatchBlocked("on-shelf", "LAMP", 9, "recall"),
        ReservationReleased("order-1", "LAMP", 3, "on-shelf", "moved"),
        Reserved("order-1", "LAMP", 3, "shipment", SOON, NOON),
    ]


def test_goods_of_a_blocked_batch_do_not_leave() -> None:
    """Their line waits, so that there is nothing to dispatch."""
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("order-1", 3))
    lamp.block_batch("on-shelf", "recall")

    outcome = lamp.dispatch("order-1", None)

    assert outcome == Refused("not allocated", field="orderid", orderid="order-1", sku="LAMP")


def test_a_block_outlives_changes_of_quantity_and_eta() -> None:
    lamp = lamp_with(shipment(5))
    lamp.block_batch("shipment", "recall")
    lamp.receive("shipment", 2)
    lamp.change_batch_eta("shipment", None)

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [
        BatchBlocked("shipment", "LAMP", 5, "recall"),
        Received("shipment", "LAMP", 2),
        BatchQuantityChanged("shipment", "LAMP", 7),
        BatchEtaChanged("shipment", "LAMP", None),
        OutOfStock("order-1", "LAMP", 3),
    ]


def test_an_unblocked_batch_serves_who_waits() -> None:
    lamp = lamp_with(on_shelf(5))
    lamp.block_batch("on-shelf", "recall")
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    outcome = lamp.unblock_batch("on-shelf")
    follow_ups = lamp.pull_follow_ups()
    lamp.allocate_waiting()

    assert (outcome, follow_ups) == (
        Succeeded(status="unblocked", batchref="on-shelf"),
        [AllocateWaiting("LAMP")],
    )
    assert lamp.pull_events() == [
        BatchUnblocked("on-shelf", "LAMP"),
        Allocated("order-1", "LAMP", 3, "on-shelf"),
    ]


def test_blocking_again_for_the_same_reason_changes_nothing() -> None:
    lamp = lamp_with(on_shelf(5))
    lamp.block_batch("on-shelf", "recall")
    lamp.pull_events()

    outcome = lamp.block_batch("on-shelf", "recall")

    assert (outcome, lamp.pull_events(), lamp.version) == (
        Succeeded(status="unchanged", batchref="on-shelf"),
        [],
        1,
    )


def test_another_reason_is_published() -> None:
    lamp = lamp_with(on_shelf(5))
    lamp.block_batch("on-shelf", "quality hold")
    lamp.pull_events()

    lamp.block_batch("on-shelf", "recall")

    assert lamp.pull_events() == [BatchBlocked("on-shelf", "LAMP", 5, "recall")]


def test_unblocking_what_is_not_blocked_changes_nothing() -> None:
    lamp = lamp_with(on_shelf(5))

    outcome = lamp.unblock_batch("on-shelf")

    assert (outcome, lamp.pull_events(), lamp.version) == (
        Succeeded(status="unchanged", batchref="on-shelf"),
        [],
        0,
    )


def test_received_pieces_are_added_whatever_happened_meanwhile() -> None:
    lamp = lamp_with(on_shelf(5))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None)
    lamp.pull_events()

    outcome = lamp.receive("on-shelf", 2)

    assert outcome == Succeeded(status="received", batchref="on-shelf", qty=2)
    assert lamp.pull_events() == [
        Received("on-shelf", "LAMP", 2),
        BatchQuantityChanged("on-shelf", "LAMP", 2),
    ]
