"""Lines that several batches may serve, one sentence each."""

from datetime import UTC, datetime
from typing import Any

from allocation.domain.books import OrderLine
from allocation.domain.events import (
    Allocated,
    BatchEtaChanged,
    BatchQuantityChanged,
    Deallocated,
    Dispatched,
    OutOfStock,
    PromiseChanged,
    Reserved,
)
from allocation.domain.outcomes import Refused, Succeeded
from tests.unit.domain.test_product import LATER, SOON, lamp_with, line, on_shelf, shipment

NOON = datetime(2029, 12, 1, 12, tzinfo=UTC)


def split(orderid: str, qty: int) -> OrderLine:
    return OrderLine(orderid, "LAMP", qty, split=True)


def stock() -> Any:
    """Four on the shelf, five soon, and nine later."""
    return lamp_with(on_shelf(4), shipment(5), shipment(9, LATER, "second"))


def test_a_line_is_whole_unless_its_caller_says_otherwise() -> None:
    """One batch serves it, though others come earlier."""
    lamp = stock()

    lamp.allocate(line("order-1", 7))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 7, "second", LATER)]


def test_a_line_that_one_batch_can_serve_is_not_split() -> None:
    lamp = stock()

    lamp.allocate(split("order-1", 7))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 7, "second", LATER)]


def test_a_line_that_no_batch_can_serve_whole_is_served_by_several() -> None:
    """By preference, the last one with the rest; the outcome tells the parts."""
    lamp = stock()

    outcome = lamp.allocate(split("order-1", 11))

    assert lamp.pull_events() == [
        Allocated("order-1", "LAMP", 4, "on-shelf", part=1),
        Allocated("order-1", "LAMP", 5, "shipment", SOON, part=2),
        Allocated("order-1", "LAMP", 2, "second", LATER),
    ]
    assert outcome == Succeeded(
        status="allocated",
        parts=[
            {"part": 0, "qty": 2, "status": "allocated", "batchref": "second", "eta": "2030-02-01"},
            {"part": 1, "qty": 4, "status": "allocated", "batchref": "on-shelf", "eta": None},
            {
                "part": 2,
                "qty": 5,
                "status": "allocated",
                "batchref": "shipment",
                "eta": "2030-01-01",
            },
        ],
    )


def test_what_is_not_there_waits_and_is_served_as_soon_as_anything_is() -> None:
    lamp = lamp_with(on_shelf(4))
    waiting = lamp.allocate(split("order-1", 9))
    lamp.create_batch("new", 2)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert isinstance(waiting, Succeeded)
    assert waiting.facts["status"] == "in parts"
    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 2, "new", part=2, waiting=3)]
    assert lamp.deallocate("order-1") == Succeeded(status="deallocated")
    assert lamp.pull_events() == [
        Deallocated("order-1", "LAMP", 3, None),
        Deallocated("order-1", "LAMP", 4, "on-shelf", part=1),
        Deallocated("order-1", "LAMP", 2, "new", part=2),
    ]


def test_the_rest_is_told_that_it_waits() -> None:
    lamp = lamp_with(on_shelf(4))

    lamp.allocate(split("order-1", 9))

    assert lamp.pull_events() == [
        Allocated("order-1", "LAMP", 4, "on-shelf", part=1, waiting=5),
        OutOfStock("order-1", "LAMP", 5),
    ]


def test_the_same_line_again_is_known_by_its_whole_quantity() -> None:
    """It changes nothing; another quantity is refused."""
    lamp = stock()
    first = lamp.allocate(split("order-1", 11))

    assert lamp.allocate(split("order-1", 11)) == first
    assert lamp.allocate(split("order-1", 7)) == Refused(
        "quantity differs", field="qty", qty=7, known_qty=11
    )


def test_a_part_that_loses_its_batch_waits_as_one_with_the_rest() -> None:
    lamp = lamp_with(on_shelf(4), shipment(5))
    lamp.allocate(split("order-1", 10))
    lamp.pull_events()

    lamp.change_batch_quantity("shipment", 3)
    lamp.create_batch("new", 9)
    lamp.allocate_waiting()

    events = [event for event in lamp.pull_events() if not hasattr(event, "best_before")]
    assert events == [
        BatchQuantityChanged("shipment", "LAMP", 3),
        Deallocated("order-1", "LAMP", 5, "shipment", part=2),
        Allocated("order-1", "LAMP", 6, "new"),
    ]


def test_a_held_line_is_confirmed_and_extended_with_all_its_parts() -> None:
    lamp = lamp_with(on_shelf(4), shipment(5))
    lamp.reserve(split("order-1", 9), NOON)
    lamp.reserve(split("order-2", 2), NOON)

    assert lamp.confirm("order-1")
    assert not lamp.expire("order-1", NOON)
    assert lamp.expire("order-2", NOON)

    told = lamp.pull_events()
    assert told[:2] == [
        Reserved("order-1", "LAMP", 4, "on-shelf", None, NOON, part=1),
        Reserved("order-1", "LAMP", 5, "shipment", SOON, NOON),
    ]
    assert told[3:5] == [
        Allocated("order-1", "LAMP", 5, "shipment", SOON),
        Allocated("order-1", "LAMP", 4, "on-shelf", part=1),
    ]


def test_the_parts_are_dispatched_batch_by_batch_or_all_at_once() -> None:
    """What has left can't be given up, and the rest can."""
    lamp = lamp_with(on_shelf(4), shipment(5))
    lamp.allocate(split("order-1", 9))
    lamp.pull_events()

    outcome = lamp.dispatch("order-1", "on-shelf")

    assert outcome == Succeeded(status="dispatched", batchref="on-shelf", qty=4, left=5)
    assert lamp.pull_events() == [Dispatched("order-1", "LAMP", 4, "on-shelf", part=1)]
    assert lamp.deallocate("order-1") == Succeeded(status="deallocated")
    assert lamp.deallocate("order-1") == Refused(
        "dispatched", field="orderid", orderid="order-1", sku="LAMP"
    )


def test_an_order_of_all_or_nothing_may_be_split() -> None:
    """What counts is what all batches have together."""
    lamp = stock()

    assert lamp.cannot_promise(split("order-1", 18), hold=False) is None
    assert lamp.cannot_promise(line("order-1", 10), hold=False) is not None
    assert lamp.cannot_promise(split("order-1", 19), hold=False) is not None


def test_a_batch_that_grew_serves_one_part_of_a_line() -> None:
    lamp = lamp_with(on_shelf(2))
    lamp.allocate(split("order-1", 5))
    lamp.change_batch_quantity("on-shelf", 10)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        Deallocated("order-1", "LAMP", 2, "on-shelf", part=1),
        Allocated("order-1", "LAMP", 5, "on-shelf", part=1),
    ]
    assert lamp.allocate(split("order-1", 5)) == Succeeded(
        status="allocated", batchref="on-shelf", eta=None
    )


def test_a_part_that_grows_tells_how_many_pieces_still_wait() -> None:
    lamp = lamp_with(on_shelf(2))
    lamp.allocate(split("order-1", 9))
    lamp.change_batch_quantity("on-shelf", 6)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        Deallocated("order-1", "LAMP", 2, "on-shelf", part=1),
        Allocated("order-1", "LAMP", 6, "on-shelf", part=1, waiting=3),
    ]


def test_a_late_part_joins_the_part_of_the_batch_that_it_moves_to() -> None:
    lamp = lamp_with(on_shelf(4), shipment(5))
    lamp.allocate(split("order-1", 9))
    lamp.change_batch_quantity("on-shelf", 10)
    lamp.pull_events()

    lamp.change_batch_eta("shipment", LATER)

    assert lamp.pull_events() == [
        BatchEtaChanged("shipment", "LAMP", LATER),
        Deallocated("order-1", "LAMP", 5, "shipment"),
        Deallocated("order-1", "LAMP", 4, "on-shelf", part=1),
        Allocated("order-1", "LAMP", 9, "on-shelf", part=1),
        PromiseChanged("order-1", "LAMP", 5, "on-shelf", SOON, None, part=1),
    ]


def test_what_has_left_is_a_part_of_its_own() -> None:
    lamp = lamp_with(on_shelf(2))
    lamp.allocate(split("order-1", 5))
    lamp.dispatch("order-1", "on-shelf")
    lamp.change_batch_quantity("on-shelf", 10)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "on-shelf")]


def test_the_number_of_a_part_is_never_used_again() -> None:
    lamp = lamp_with(on_shelf(4), shipment(5))
    lamp.allocate(split("order-1", 12))
    lamp.change_batch_quantity("shipment", 0)  # part 2 joins what waits
    lamp.create_batch("third", 3)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        Allocated("order-1", "LAMP", 3, "third", part=3, waiting=5),
        OutOfStock("order-1", "LAMP", 5),
    ]


def test_a_held_line_that_is_confirmed_tells_how_many_pieces_wait() -> None:
    lamp = lamp_with(on_shelf(4))
    lamp.reserve(split("order-1", 9), NOON)
    lamp.pull_events()

    lamp.confirm("order-1")

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 4, "on-shelf", part=1, waiting=5)]
