"""What the last good day of a batch decides."""

from datetime import date, timedelta

from allocation.adapters.memory import MemoryBooks
from allocation.domain.books import Batch
from allocation.domain.commands import AllocateWaiting, ExpireBatch
from allocation.domain.events import (
    Allocated,
    BatchCreated,
    BatchExpired,
    BestBeforeChanged,
    Deallocated,
    OutOfStock,
)
from allocation.domain.outcomes import Refused, Succeeded
from tests.unit.domain.test_product import (
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

TOMORROW = TODAY + timedelta(days=1)


def test_a_batch_serves_on_its_last_good_day() -> None:
    lamp = lamp_with(perishable(5, TODAY), today=TODAY)

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "perishable")]


def test_a_batch_whose_last_good_day_has_passed_serves_no_line() -> None:
    lamp = lamp_with(perishable(5, YESTERDAY), today=TODAY)

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [OutOfStock("order-1", "LAMP", 3)]


def test_first_to_expire_does_not_prefer_what_has_expired() -> None:
    lamp = lamp_with(
        perishable(5, YESTERDAY),
        perishable(5, TOMORROW, "good"),
        strategy="first_to_expire",
        today=TODAY,
    )

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "good")]


def test_a_shipment_that_expires_before_it_arrives_is_refused() -> None:
    lamp = lamp_with(today=TODAY)

    outcome = lamp.create_batch("short", 5, eta=SOON, best_before=TOMORROW)

    assert (outcome, lamp.pull_events()) == (
        Refused(
            "expires before arrival",
            field="best_before",
            best_before=TOMORROW.isoformat(),
            eta=SOON.isoformat(),
        ),
        [],
    )


def test_a_shipment_that_is_delayed_past_its_last_good_day_serves_no_line() -> None:
    short = Batch("short", "LAMP", 5, eta=TOMORROW, best_before=SOON)
    lamp = lamp_with(short, today=TODAY)
    lamp.allocate(line("order-1", 3))
    lamp.pull_events()

    lamp.change_batch_eta("short", SOON + timedelta(days=1))
    lamp.allocate_waiting()

    assert lamp.pull_events()[1:] == [
        Deallocated("order-1", "LAMP", 3, "short"),
        OutOfStock("order-1", "LAMP", 3),
    ]


def test_a_line_that_wants_it_fresh_is_served_by_what_stays_good_long_enough() -> None:
    lamp = lamp_with(
        perishable(5, TODAY + timedelta(days=6)),
        perishable(5, TODAY + timedelta(days=7), "fresh"),
        today=TODAY,
    )

    lamp.allocate(line("order-1", 3, fresh_days=7))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "fresh")]


def test_fresh_days_count_from_the_day_on_which_the_line_is_wanted() -> None:
    lamp = lamp_with(perishable(5, SOON + timedelta(days=6)), today=TODAY)

    lamp.allocate(line("too-long", 1, fresh_days=7, not_before=SOON))
    lamp.allocate(line("just-so", 1, fresh_days=6, not_before=SOON))

    assert lamp.pull_events() == [
        OutOfStock("too-long", "LAMP", 1),
        Allocated("just-so", "LAMP", 1, "perishable"),
    ]


def test_fresh_days_count_from_the_day_on_which_the_shipment_arrives() -> None:
    frozen = Batch("frozen", "LAMP", 5, eta=SOON, best_before=SOON + timedelta(days=6))
    lamp = lamp_with(frozen, today=TODAY)

    lamp.allocate(line("too-long", 1, fresh_days=7))
    lamp.allocate(line("just-so", 1, fresh_days=6))

    assert lamp.pull_events() == [
        OutOfStock("too-long", "LAMP", 1),
        Allocated("just-so", "LAMP", 1, "frozen", SOON),
    ]


def test_a_line_that_wants_it_too_fresh_does_not_keep_others_waiting() -> None:
    lamp = lamp_with(perishable(5, TOMORROW), today=TODAY)
    lamp.allocate(line("fresh", 5, fresh_days=9))
    lamp.allocate(line("any", 5))

    assert lamp.pull_events() == [
        OutOfStock("fresh", "LAMP", 5),
        Allocated("any", "LAMP", 5, "perishable"),
    ]


def test_a_batch_is_looked_at_when_its_last_good_day_has_passed() -> None:
    lamp = lamp_with(today=TODAY)

    lamp.create_batch("milk", 5, best_before=TOMORROW)

    [follow_up] = lamp.pull_follow_ups()
    assert (follow_up, follow_up.due_at) == (
        ExpireBatch("milk", TOMORROW),
        TOMORROW + timedelta(days=1),
    )
    assert lamp.pull_events() == [BatchCreated("milk", "LAMP", 5, best_before=TOMORROW)]


def test_a_batch_that_expires_is_published_and_its_lines_move() -> None:
    books = MemoryBooks([perishable(5, YESTERDAY), on_shelf(9, "spare")])
    before = lamp_of(books, YESTERDAY)
    before.allocate(line("order-1", 3))
    lamp = lamp_of(books, TODAY, before)

    outcome = lamp.expire_batch("perishable", YESTERDAY)
    lamp.allocate_waiting()

    assert outcome == Succeeded(status="expired", batchref="perishable", qty=5)
    assert before.pull_events() == [Allocated("order-1", "LAMP", 3, "perishable")]
    assert lamp.pull_events() == [
        BatchExpired("perishable", "LAMP", 5, YESTERDAY),
        Deallocated("order-1", "LAMP", 3, "perishable"),
        Allocated("order-1", "LAMP", 3, "spare"),
    ]


def test_a_batch_expires_once() -> None:
    lamp = lamp_with(perishable(5, YESTERDAY), today=TODAY)
    lamp.expire_batch("perishable", YESTERDAY)
    lamp.pull_events()

    outcome = lamp.expire_batch("perishable", YESTERDAY)

    assert (outcome, lamp.pull_events(), lamp.version) == (
        Succeeded(status="kept", batchref="perishable"),
        [],
        1,
    )


def test_a_batch_that_is_looked_at_too_early_is_looked_at_again() -> None:
    """The shop's days may begin later than the ones by which it was scheduled."""
    lamp = lamp_with(perishable(5, TODAY), today=TODAY)

    outcome = lamp.expire_batch("perishable", TODAY)

    assert (outcome, lamp.pull_follow_ups(), lamp.pull_events()) == (
        Succeeded(status="kept", batchref="perishable"),
        [ExpireBatch("perishable", TODAY)],
        [],
    )


def test_a_batch_with_another_last_good_day_by_now_does_not_expire() -> None:
    lamp = lamp_with(perishable(5, YESTERDAY), today=TODAY)
    lamp.change_best_before("perishable", SOON)
    lamp.pull_events()

    outcome = lamp.expire_batch("perishable", YESTERDAY)

    assert (outcome, lamp.pull_events()) == (Succeeded(status="kept", batchref="perishable"), [])


def test_a_corrected_last_good_day_serves_who_waits() -> None:
    lamp = lamp_with(perishable(5, YESTERDAY), today=TODAY)
    lamp.allocate(line("order-1", 3))
    lamp.expire_batch("perishable", YESTERDAY)
    lamp.pull_follow_ups()
    lamp.pull_events()

    outcome = lamp.change_best_before("perishable", SOON)
    follow_ups = lamp.pull_follow_ups()
    lamp.allocate_waiting()

    assert outcome == Succeeded(
        status="changed", batchref="perishable", best_before=SOON.isoformat()
    )
    assert follow_ups == [ExpireBatch("perishable", SOON), AllocateWaiting("LAMP")]
    assert lamp.pull_events() == [
        BestBeforeChanged("perishable", "LAMP", SOON),
        Allocated("order-1", "LAMP", 3, "perishable"),
    ]


def test_an_earlier_last_good_day_moves_only_the_lines_that_it_is_too_early_for() -> None:
    lamp = lamp_with(perishable(9, SOON), today=TODAY)
    lamp.allocate(line("fresh", 3, fresh_days=9))
    lamp.allocate(line("any", 3))
    lamp.pull_events()

    lamp.change_best_before("perishable", TOMORROW)
    lamp.allocate_waiting()

    assert lamp.pull_events() == [
        BestBeforeChanged("perishable", "LAMP", TOMORROW),
        Deallocated("fresh", "LAMP", 3, "perishable"),
        OutOfStock("fresh", "LAMP", 3),
    ]


def test_a_last_good_day_before_the_arrival_is_refused() -> None:
    lamp = lamp_with(shipment(5), today=TODAY)

    outcome = lamp.change_best_before("shipment", TODAY)

    assert outcome == Refused(
        "expires before arrival", field="best_before", best_before="2029-12-20", eta="2030-01-01"
    )


def test_the_last_good_day_that_it_has_changes_nothing() -> None:
    lamp = lamp_with(perishable(5, SOON), today=TODAY)

    outcome = lamp.change_best_before("perishable", SOON)

    assert (outcome, lamp.pull_events(), lamp.version) == (
        Succeeded(status="unchanged", batchref="perishable", best_before=SOON.isoformat()),
        [],
        0,
    )


def test_the_best_before_day_is_compared_to_the_day_of_the_shop() -> None:
    lamp = lamp_with(perishable(5, date.max), today=date.max)

    lamp.allocate(line("order-1", 3))

    assert lamp.pull_events() == [Allocated("order-1", "LAMP", 3, "perishable")]
