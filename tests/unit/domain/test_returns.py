"""Dispatched pieces may come back."""

from allocation.domain.commands import AllocateWaiting
from allocation.domain.events import (
    Allocated,
    BatchCreated,
    BatchQuantityChanged,
    Returned,
)
from allocation.domain.outcomes import Refused, Succeeded
from allocation.domain.product import Product
from tests.unit.domain.test_product import lamp_with, line, on_shelf


def lamp_that_left(qty: int, dispatched: int | None = None) -> Product:
    """A product of which `order-1` wants so many pieces, and has so many; none are left."""
    lamp = lamp_with(on_shelf(qty))
    lamp.allocate(line("order-1", qty))
    lamp.dispatch("order-1", None, dispatched)
    lamp.pull_events()
    return lamp


def test_usable_goods_return_into_a_batch() -> None:
    lamp = lamp_that_left(5)

    outcome = lamp.return_goods("order-1", 2, "on-shelf", reason="too large")

    assert outcome == Succeeded(status="returned", batchref="on-shelf", qty=2)
    assert lamp.pull_events() == [
        Returned("order-1", "LAMP", 2, "on-shelf", usable=True, reason="too large"),
        BatchQuantityChanged("on-shelf", "LAMP", 2),
    ]


def test_usable_goods_return_into_a_new_batch_on_the_shelf() -> None:
    lamp = lamp_that_left(5)

    outcome = lamp.return_goods("order-1", 2, "returned")

    assert outcome == Succeeded(status="returned", batchref="returned", qty=2)
    assert lamp.pull_events() == [
        Returned("order-1", "LAMP", 2, "returned", usable=True, reason=None),
        BatchCreated("returned", "LAMP", 2),
    ]


def test_returned_goods_serve_who_waits() -> None:
    lamp = lamp_that_left(5)
    lamp.allocate(line("order-2", 2))
    lamp.return_goods("order-1", 2, "on-shelf")
    lamp.pull_events()
    follow_ups = lamp.pull_follow_ups()

    lamp.allocate_waiting()

    assert follow_ups == [AllocateWaiting("LAMP")]
    assert lamp.pull_events() == [Allocated("order-2", "LAMP", 2, "on-shelf")]


def test_goods_that_are_not_usable_are_only_recorded() -> None:
    lamp = lamp_that_left(5)

    outcome = lamp.return_goods("order-1", 2, "scrap", usable=False, reason="broken")

    assert outcome == Succeeded(status="returned", batchref=None, qty=2)
    assert lamp.pull_events() == [
        Returned("order-1", "LAMP", 2, "scrap", usable=False, reason="broken")
    ]


def test_no_more_come_back_than_left() -> None:
    lamp = lamp_that_left(5, dispatched=3)

    outcome = lamp.return_goods("order-1", 4, "on-shelf")

    assert outcome == Refused("quantity too large", field="qty", qty=4, known_qty=3)
    assert lamp.pull_events() == []


def test_no_piece_comes_back_twice() -> None:
    lamp = lamp_that_left(5)
    lamp.return_goods("order-1", 3, "scrap", usable=False)
    lamp.pull_events()

    outcome = lamp.return_goods("order-1", 3, "on-shelf")

    assert outcome == Refused("quantity too large", field="qty", qty=3, known_qty=2)
    assert lamp.pull_events() == []


def test_pieces_of_several_parts_come_back_together() -> None:
    lamp = lamp_with(on_shelf(3, "a"), on_shelf(2, "b"))
    lamp.allocate(line("order-1", 5, split=True))
    lamp.dispatch("order-1", None)
    lamp.return_goods("order-1", 4, "a")
    lamp.pull_events()

    outcome = lamp.return_goods("order-1", 1, "b")
    too_many = lamp.return_goods("order-1", 1, "b")

    assert outcome == Succeeded(status="returned", batchref="b", qty=1)
    assert too_many == Refused("quantity too large", field="qty", qty=1, known_qty=0)
    assert lamp.pull_events() == [
        Returned("order-1", "LAMP", 1, "b", usable=True, reason=None),
        BatchQuantityChanged("b", "LAMP", 1),
    ]


def test_what_came_back_stays_counted_when_the_rest_of_the_line_is_given_up() -> None:
    lamp = lamp_that_left(5, dispatched=3)
    lamp.return_goods("order-1", 2, "on-shelf")
    lamp.deallocate("order-1")
    lamp.pull_events()

    outcome = lamp.return_goods("order-1", 2, "on-shelf")

    assert outcome == Refused("quantity too large", field="qty", qty=2, known_qty=1)


def test_an_unknown_line_returns_nothing() -> None:
    lamp = lamp_with(on_shelf(3))

    outcome = lamp.return_goods("order-1", 1, "on-shelf")

    assert outcome == Refused("unknown order line", field="orderid", orderid="order-1", sku="LAMP")
