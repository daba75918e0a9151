"""A customer may want a line no earlier than a day."""

from datetime import timedelta

from allocation.adapters.memory import MemoryBooks
from allocation.domain.events import Allocated, BatchEtaChanged, OutOfStock, PromiseChanged
from allocation.domain.outcomes import Succeeded
from tests.unit.domain.test_product import (
    LATER,
    SOON,
    TODAY,
    YESTERDAY,
    lamp_of,
    lamp_with,
    line,
    on_shelf,
    perishable,
    shipment,
)

BETWEEN = SOON + timedelta(days=9)


def test_the_batch_that_comes_last_but_in_time_serves_so_that_early_stock_stays_free() -> None:
    lamp = lamp_with(
        on_shelf(9), shipment(9, SOON, "soon"), shipment(9, LATER, "later"), today=TODAY
    )

    lamp.allocate(line("order-1", 3, not_before=BETWEEN))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "soon", SOON)]


def test_a_batch_that_comes_on_the_wanted_day_is_in_time() -> None:
    lamp = lamp_with(on_shelf(9), shipment(9, LATER, "later"), today=TODAY)

    lamp.allocate(line("order-1", 3, not_before=LATER))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "later", LATER)]


def test_if_none_is_in_time_the_earliest_afterwards_serves() -> None:
    lamp = lamp_with(
        shipment(9, LATER + timedelta(days=1), "last"),
        shipment(9, LATER, "later"),
        today=TODAY,
    )

    lamp.allocate(line("order-1", 3, not_before=BETWEEN))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "later", LATER)]


def test_the_shelf_serves_what_no_shipment_has() -> None:
    lamp = lamp_with(on_shelf(9), shipment(2), today=TODAY)

    lamp.allocate(line("order-1", 3, not_before=LATER))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "on-shelf")]


def test_an_overdue_shipment_is_not_in_time() -> None:
    lamp = lamp_with(shipment(9, YESTERDAY, "overdue"), on_shelf(9), today=TODAY)

    lamp.allocate(line("order-1", 3, not_before=LATER))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "on-shelf")]


def test_stock_that_expires_before_the_wanted_day_does_not_serve() -> None:
    lamp = lamp_with(perishable(9, SOON), today=TODAY)

    lamp.allocate(line("order-1", 3, not_before=SOON + timedelta(days=1)))

    assert lamp.pull_events() == [OutOfStock("order-1", "LAMP", 3)]


def test_stock_that_expires_on_the_wanted_day_serves() -> None:
    lamp = lamp_with(perishable(9, SOON), today=TODAY)

    lamp.allocate(line("order-1", 3, not_before=SOON))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "perishable")]


def test_a_promise_in_time_does_not_improve() -> None:
    lamp = lamp_with(shipment(9), today=TODAY)
    lamp.allocate(line("order-1", 3, not_before=BETWEEN))
    lamp.create_batch("new", 9)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events() == []


def test_a_promise_that_is_too_late_improves() -> None:
    lamp = lamp_with(shipment(9, LATER, "later"), today=TODAY)
    lamp.allocate(line("order-1", 3, not_before=BETWEEN))
    lamp.create_batch("new", 9, eta=SOON)
    lamp.pull_events()

    lamp.allocate_waiting()

    assert lamp.pull_events()[1:] == [
        Allocated("order-1", "LAMP", 3, "new", SOON),
        PromiseChanged("order-1", "LAMP", 3, "new", LATER, SOON),
    ]


def test_a_promise_that_stays_in_time_keeps_its_batch_when_that_is_delayed() -> None:
    lamp = lamp_with(shipment(9), on_shelf(9), today=TODAY)
    lamp.allocate(line("order-1", 3, not_before=BETWEEN))
    lamp.pull_events()

    lamp.change_batch_eta("shipment", BETWEEN)

    assert lamp.pull_events() == [
        BatchEtaChanged("shipment", "LAMP", BETWEEN),
        PromiseChanged("order-1", "LAMP", 3, "shipment", SOON, BETWEEN),
    ]


def test_a_wanted_day_that_has_passed_wants_it_at_once() -> None:
    lamp = lamp_with(on_shelf(9), shipment(9), today=TODAY)

    lamp.allocate(line("order-1", 3, not_before=YESTERDAY))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "on-shelf")]


def test_goods_may_leave_before_the_wanted_day() -> None:
    """It is the warehouse that knows how long the way is."""
    lamp = lamp_of(MemoryBooks([on_shelf(9)]), TODAY)
    lamp.allocate(line("order-1", 3, not_before=LATER))

    outcome = lamp.dispatch("order-1", None)

    assert outcome == Succeeded(status="dispatched", batchref="on-shelf")
