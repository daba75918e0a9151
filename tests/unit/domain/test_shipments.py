"""Late, early and damaged batches and their lines, one sentence each."""

from datetime import date

import pytest

from allocation.domain import product
from allocation.domain.commands import AllocateWaiting, MarkOverdue, ReviewPromises
from allocation.domain.events import (
    Allocated,
    BatchEtaChanged,
    BatchQuantityChanged,
    Deallocated,
    PromiseChanged,
    WrittenOff,
)
from allocation.domain.outcomes import Refused, Succeeded
from tests.unit.domain.test_product import LATER, SOON, lamp_with, line, on_shelf, shipment

MUCH_LATER = date(2030, 3, 1)


def test_the_lines_of_a_late_batch_are_told_the_new_day() -> None:
    """They keep their stock where nothing else serves them earlier."""
    lamp = lamp_with(shipment(10))
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    outcome = lamp.change_batch_eta("shipment", LATER)

    assert outcome == Succeeded(status="changed", batchref="shipment", eta="2030-02-01")
    assert lamp.pull_events() == [
        BatchEtaChanged("shipment", "LAMP", LATER),
        PromiseChanged("order-1", "LAMP", 3, "shipment", SOON, LATER),
    ]
    assert lamp.pull_follow_ups() == [MarkOverdue("shipment", LATER)]


def test_a_line_moves_only_where_another_batch_brings_it_earlier() -> None:
    """Whoever was promised first chooses first; who finds nothing better stays."""
    lamp = lamp_with(shipment(10), shipment(4, LATER, "second"))
    lamp.allocate(line("order-1", 4))
    lamp.allocate(line("order-2", 4))
    lamp.pull_events()

    lamp.change_batch_eta("shipment", MUCH_LATER)

    assert lamp.pull_events() == [
        BatchEtaChanged("shipment", "LAMP", MUCH_LATER),
        Deallocated("order-1", "LAMP", 4, "shipment"),
        Allocated("order-1", "LAMP", 4, "second", LATER),
        PromiseChanged("order-1", "LAMP", 4, "second", SOON, LATER),
        PromiseChanged("order-2", "LAMP", 4, "shipment", SOON, MUCH_LATER),
    ]
    assert lamp.pull_follow_ups() == [MarkOverdue("shipment", MUCH_LATER)]


def test_a_line_that_moves_to_a_batch_of_the_same_day_keeps_its_promise() -> None:
    lamp = lamp_with(shipment(4), shipment(4, SOON, "twin"))
    lamp.allocate(line("order-1", 4))
    lamp.pull_events()

    lamp.change_batch_eta("shipment", LATER)

    assert lamp.pull_events() == [
        BatchEtaChanged("shipment", "LAMP", LATER),
        Deallocated("order-1", "LAMP", 4, "shipment"),
        Allocated("order-1", "LAMP", 4, "twin", SOON),
    ]


def test_no_line_moves_from_a_batch_that_comes_earlier() -> None:
    lamp = lamp_with(shipment(3, LATER))
    lamp.choose_strategy("earliest_first", improve=False)
    lamp.allocate(line("order-1", 3))
    lamp.create_batch("on-shelf", 3)
    lamp.pull_events()

    lamp.change_batch_eta("shipment", SOON)

    assert lamp.pull_events() == [
        BatchEtaChanged("shipment", "LAMP", SOON),
        PromiseChanged("order-1", "LAMP", 3, "shipment", LATER, SOON),
    ]


def test_a_batch_that_arrived_is_on_the_shelf() -> None:
    """Its lines are told, and the next one is served from it first."""
    lamp = lamp_with(shipment(10, LATER), shipment(10, SOON, "sooner"))
    lamp.change_batch_eta("shipment", None)

    outcome = lamp.allocate(line("order-1", 3))

    assert outcome == Succeeded(status="allocated", batchref="shipment", eta=None)


def test_the_same_day_again_changes_nothing() -> None:
    lamp = lamp_with(shipment(10))

    outcome = lamp.change_batch_eta("shipment", SOON)

    assert outcome == Succeeded(status="unchanged", batchref="shipment", eta="2030-01-01")
    assert (lamp.pull_events(), lamp.version) == ([], 0)


def test_who_waits_is_served_before_anyone_moves() -> None:
    """A promise that gets worse does not overtake an older line without any."""
    lamp = lamp_with(shipment(10, LATER))
    lamp.allocate(line("promised", 5))
    lamp.allocate(line("waiting", 8))
    lamp.create_batch("on-shelf", 8)
    lamp.pull_events()

    lamp.change_batch_eta("shipment", MUCH_LATER)

    assert lamp.pull_events() == [
        BatchEtaChanged("shipment", "LAMP", MUCH_LATER),
        Allocated("waiting", "LAMP", 8, "on-shelf"),
        PromiseChanged("promised", "LAMP", 5, "shipment", LATER, MUCH_LATER),
    ]


def test_many_lines_are_told_step_by_step_each_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """And where the day changes again meanwhile, from the day that each one knows."""
    monkeypatch.setattr(product, "LINES_PER_COMMAND", 2)
    lamp = lamp_with(shipment(10))
    for number in range(5):
        lamp.allocate(line(f"order-{number}", 1))
    lamp.pull_events()

    lamp.change_batch_eta("shipment", LATER)
    lamp.change_batch_eta("shipment", MUCH_LATER)
    while ReviewPromises("shipment") in lamp.pull_follow_ups():
        lamp.review_promises("shipment")

    told = [
        (event.orderid, event.old_eta, event.new_eta)
        for event in lamp.pull_events()
        if isinstance(event, PromiseChanged)
    ]
    assert told == [
        ("order-0", SOON, LATER),
        ("order-1", SOON, LATER),
        ("order-0", LATER, MUCH_LATER),
        ("order-1", LATER, MUCH_LATER),
        ("order-2", SOON, MUCH_LATER),
        ("order-3", SOON, MUCH_LATER),
        ("order-4", SOON, MUCH_LATER),
    ]


def test_the_most_recently_promised_line_gives_way_to_damage() -> None:
    lamp = lamp_with(on_shelf(10))
    lamp.allocate(line("older", 4))
    lamp.allocate(line("younger", 4))
    lamp.pull_events()

    outcome = lamp.write_off("on-shelf", 5, "water damage")

    assert outcome == Succeeded(status="written off", batchref="on-shelf", left=5)
    assert lamp.pull_events() == [
        WrittenOff("on-shelf", "LAMP", 5, "water damage"),
        BatchQuantityChanged("on-shelf", "LAMP", 5),
        Deallocated("younger", "LAMP", 4, "on-shelf"),
    ]
    assert lamp.pull_follow_ups() == [AllocateWaiting("LAMP")]


def test_no_more_is_written_off_than_there_is() -> None:
    lamp = lamp_with(on_shelf(3))

    outcome = lamp.write_off("on-shelf", 4, "stolen")

    assert outcome == Refused("quantity too large", field="qty", qty=4, known_qty=3)
    assert lamp.pull_events() == []
