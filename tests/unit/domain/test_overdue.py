"""What happens to a batch whose ETA has passed without arrival."""

from datetime import timedelta

from allocation.adapters.memory import MemoryBooks
from allocation.domain.commands import MarkOverdue
from allocation.domain.events import Allocated, BatchEtaChanged, BatchOverdue, PromiseChanged
from allocation.domain.outcomes import Refused, Succeeded
from tests.unit.domain.test_product import (
    LATER,
    SOON,
    TODAY,
    YESTERDAY,
    lamp_of,
    lamp_with,
    line,
    shipment,
)


def test_an_overdue_shipment_ranks_after_every_one_with_a_known_day() -> None:
    lamp = lamp_with(shipment(9, YESTERDAY, "overdue"), shipment(9, LATER, "later"), today=TODAY)

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "later", LATER)]


def test_an_overdue_shipment_serves_what_no_other_one_can() -> None:
    lamp = lamp_with(shipment(9, YESTERDAY, "overdue"), shipment(2, LATER, "later"), today=TODAY)

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "overdue", YESTERDAY)]


def test_a_shipment_that_comes_today_is_not_overdue() -> None:
    lamp = lamp_with(shipment(9, TODAY, "today"), shipment(9, SOON, "soon"), today=TODAY)

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "today", TODAY)]


def test_a_shipment_is_looked_at_when_its_day_has_passed() -> None:
    lamp = lamp_with(today=TODAY)

    lamp.create_batch("ship", 5, eta=SOON)

    [follow_up] = lamp.pull_follow_ups()
    assert (follow_up, follow_up.due_at) == (MarkOverdue("ship", SOON), SOON + timedelta(days=1))


def test_an_overdue_shipment_is_published_and_keeps_its_promises() -> None:
    books = MemoryBooks([shipment(9, YESTERDAY, "overdue")])
    before = lamp_of(books, YESTERDAY)
    before.allocate(line("order-1", 3))
    lamp = lamp_of(books, TODAY, before)

    outcome = lamp.mark_overdue("overdue", YESTERDAY)
    lamp.allocate_waiting()

    assert outcome == Succeeded(status="overdue", batchref="overdue")
    assert lamp.pull_events() == [BatchOverdue("overdue", "LAMP", YESTERDAY)]
    assert lamp.allocate(line("order-1", 3)) == Succeeded(
        status="allocated", batchref="overdue", eta=YESTERDAY.isoformat()
    )


def test_a_shipment_is_overdue_once() -> None:
    lamp = lamp_with(shipment(9, YESTERDAY, "overdue"), today=TODAY)
    lamp.mark_overdue("overdue", YESTERDAY)
    lamp.pull_events()

    outcome = lamp.mark_overdue("overdue", YESTERDAY)

    assert (outcome, lamp.pull_events(), lamp.version) == (
        Succeeded(status="kept", batchref="overdue"),
        [],
        1,
    )


def test_a_shipment_that_is_looked_at_too_early_is_looked_at_again() -> None:
    lamp = lamp_with(shipment(9, TODAY), today=TODAY)

    outcome = lamp.mark_overdue("shipment", TODAY)

    assert (outcome, lamp.pull_events(), lamp.pull_follow_ups()) == (
        Succeeded(status="kept", batchref="shipment"),
        [],
        [MarkOverdue("shipment", TODAY)],
    )


def test_a_shipment_that_arrived_is_not_overdue() -> None:
    lamp = lamp_with(shipment(9, YESTERDAY), today=TODAY)
    lamp.change_batch_eta("shipment", None)
    lamp.pull_events()

    outcome = lamp.mark_overdue("shipment", YESTERDAY)

    assert (outcome, lamp.pull_events()) == (Succeeded(status="kept", batchref="shipment"), [])


def test_an_overdue_shipment_with_a_new_day_may_be_overdue_again() -> None:
    books = MemoryBooks([shipment(9, YESTERDAY)])
    late = lamp_of(books, TODAY)
    late.mark_overdue("shipment", YESTERDAY)
    late.change_batch_eta("shipment", SOON)
    lamp = lamp_of(books, SOON + timedelta(days=1), late)

    lamp.mark_overdue("shipment", SOON)

    assert late.pull_events() == [
        BatchOverdue("shipment", "LAMP", YESTERDAY),
        BatchEtaChanged("shipment", "LAMP", SOON),
    ]
    assert late.pull_follow_ups() == [MarkOverdue("shipment", SOON)]
    assert lamp.pull_events() == [BatchOverdue("shipment", "LAMP", SOON)]


def test_lines_of_an_overdue_shipment_hear_of_its_new_day() -> None:
    lamp = lamp_with(shipment(9, YESTERDAY), today=TODAY)
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    lamp.change_batch_eta("shipment", LATER)

    assert lamp.pull_events() == [
        BatchEtaChanged("shipment", "LAMP", LATER),
        PromiseChanged("order-1", "LAMP", 3, "shipment", YESTERDAY, LATER),
    ]


def test_goods_on_a_ship_do_not_leave() -> None:
    lamp = lamp_with(shipment(9), today=TODAY)
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    outcome = lamp.dispatch("order-1", None)

    assert (outcome, lamp.pull_events()) == (
        Refused("not arrived", field="batchref", batchref="shipment"),
        [],
    )
