"""Some pieces of a line may leave before the others."""

from datetime import timedelta

from allocation.adapters.memory import MemoryBooks
from allocation.domain.books import Batch
from allocation.domain.events import (
    Allocated,
    BatchEtaChanged,
    BatchQuantityChanged,
    Deallocated,
    Dispatched,
    OutOfStock,
    PromiseChanged,
)
from allocation.domain.outcomes import Refused, Succeeded
from tests.unit.domain.test_product import (
    SOON,
    TODAY,
    lamp_of,
    lamp_with,
    line,
    on_shelf,
    perishable,
    shipment,
)


def test_some_pieces_leave_and_the_rest_stays_promised() -> None:
    books = MemoryBooks([on_shelf(9)])
    lamp = lamp_of(books, TODAY)
    lamp.allocate(line("order-1", 5))
    lamp.pull_events()

    outcome = lamp.dispatch("order-1", None, 2)

    assert outcome == Succeeded(status="dispatched", batchref="on-shelf", qty=2, left=3)
    assert lamp.pull_events() == [Dispatched("order-1", "LAMP", 2, "on-shelf", left=3)]
    assert vars(books.batches["on-shelf"]) == vars(Batch("on-shelf", "LAMP", 7, allocated=3))


def test_the_rest_leaves_later() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None, 2)
    lamp.pull_events()

    outcome = lamp.dispatch("order-1", None)

    assert outcome == Succeeded(status="dispatched", batchref="on-shelf")
    assert lamp.pull_events() == [Dispatched("order-1", "LAMP", 3, "on-shelf")]


def test_no_more_leave_than_are_promised() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None, 2)
    lamp.pull_events()

    outcome = lamp.dispatch("order-1", None, 4)

    assert outcome == Refused("quantity too large", field="qty", qty=4, known_qty=3)
    assert lamp.pull_events() == []


def test_a_line_that_has_left_leaves_once() -> None:
    lamp = lamp_with(on_shelf(9))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None)
    lamp.pull_events()
    version = lamp.version

    outcome = lamp.dispatch("order-1", None)

    assert (outcome, lamp.pull_events(), lamp.version) == (
        Succeeded(status="dispatched", batchref="on-shelf"),
        [],
        version,
    )


def test_only_the_parts_that_are_there_leave() -> None:
    lamp = lamp_with(on_shelf(2), shipment(3))
    lamp.allocate(line("order-1", 5, split=True))
    lamp.pull_events()

    outcome = lamp.dispatch("order-1", None)

    assert outcome == Succeeded(status="dispatched", batchref="on-shelf", qty=2, left=3)
    assert lamp.pull_events() == [Dispatched("order-1", "LAMP", 2, "on-shelf", part=1)]


def test_one_part_of_a_line_leaves_by_its_batch() -> None:
    lamp = lamp_with(on_shelf(2, "a"), on_shelf(3, "b"))
    lamp.allocate(line("order-1", 5, split=True))
    lamp.pull_events()

    outcome = lamp.dispatch("order-1", "b", 1)

    assert outcome == Succeeded(status="dispatched", batchref="b", qty=1, left=4)
    assert lamp.pull_events() == [Dispatched("order-1", "LAMP", 1, "b", part=0, left=2)]


def test_pieces_leave_in_the_order_of_the_parts() -> None:
    lamp = lamp_with(on_shelf(2, "a"), on_shelf(3, "b"))
    lamp.allocate(line("order-1", 5, split=True))
    lamp.pull_events()

    outcome = lamp.dispatch("order-1", None, 4)

    assert outcome == Succeeded(
        status="dispatched",
        parts=[
            {"part": 0, "batchref": "b", "qty": 3},
            {"part": 1, "batchref": "a", "qty": 1},
        ],
        qty=4,
        left=1,
    )
    assert lamp.pull_events() == [
        Dispatched("order-1", "LAMP", 3, "b", part=0),
        Dispatched("order-1", "LAMP", 1, "a", part=1, left=1),
    ]


def test_a_batch_that_does_not_serve_the_line_is_refused() -> None:
    lamp = lamp_with(on_shelf(9, "a"), on_shelf(9, "b"))
    lamp.allocate(line("order-1", 5))

    outcome = lamp.dispatch("order-1", "b")

    assert outcome == Refused("another batch", field="batchref", batchref="b", known="a")


def test_goods_that_have_expired_do_not_leave() -> None:
    """Also in the moment before the batch is taken out."""
    books = MemoryBooks([perishable(9, TODAY)])
    before = lamp_of(books, TODAY)
    before.allocate(line("order-1", 5))
    lamp = lamp_of(books, TODAY + timedelta(days=1), before)

    outcome = lamp.dispatch("order-1", None)

    assert (outcome, lamp.pull_events()) == (
        Refused("expired", field="batchref", batchref="perishable"),
        [],
    )


def test_a_shortage_takes_only_what_has_not_left() -> None:
    lamp = lamp_with(on_shelf(5))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None, 2)
    lamp.pull_events()

    lamp.change_batch_quantity("on-shelf", 0)
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        BatchQuantityChanged("on-shelf", "LAMP", 0),
        Deallocated("order-1", "LAMP", 3, "on-shelf"),
        OutOfStock("order-1", "LAMP", 3),
    ]


def test_the_rest_of_a_line_that_partly_left_is_served_by_another_batch() -> None:
    lamp = lamp_with(on_shelf(5, "a"), on_shelf(3, "b"))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None, 2)
    lamp.block_batch("a", "recall")
    lamp.pull_events()

    lamp.allocate_waiting()
    outcome = lamp.allocate(line("order-1", 5))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "b")]
    assert outcome == Succeeded(
        status="in parts",
        parts=[
            {"part": 0, "qty": 3, "status": "allocated", "batchref": "b", "eta": None},
            {"part": 1, "qty": 2, "status": "dispatched", "batchref": "a", "eta": None},
        ],
    )


def test_giving_up_a_line_that_partly_left_keeps_what_has_left() -> None:
    lamp = lamp_with(on_shelf(5))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None, 2)
    lamp.pull_events()

    outcome = lamp.deallocate("order-1")

    assert outcome == Succeeded(status="deallocated")
    assert lamp.pull_events() == [Deallocated("order-1", "LAMP", 3, "on-shelf")]
    assert lamp.dispatched_pieces("order-1") == 2


def test_a_new_day_is_published_for_what_has_not_left() -> None:
    lamp = lamp_with(on_shelf(5))
    lamp.allocate(line("order-1", 5))
    lamp.dispatch("order-1", None, 2)
    lamp.pull_events()

    lamp.change_batch_eta("on-shelf", SOON)

    assert lamp.pull_events() == [
        BatchEtaChanged("on-shelf", "LAMP", SOON),
        PromiseChanged("order-1", "LAMP", 3, "on-shelf", None, SOON),
    ]


def test_a_waiting_line_does_not_leave() -> None:
    lamp = lamp_with(on_shelf(2))
    lamp.allocate(line("order-1", 5))

    outcome = lamp.dispatch("order-1", None, 2)

    assert outcome == Refused("not allocated", field="orderid", orderid="order-1", sku="LAMP")
