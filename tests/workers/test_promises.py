"""One mail for each changed promise: another batch, or another day."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import count, permutations

import pytest
from sqlalchemy import Engine, select, update

from allocation.messaging.cloudevents import Envelope
from allocation.messaging.resequencer import Resequencer
from tests.workers.conftest import envelope
from workers.notification import mailing, tables
from workers.notification.running import MIGRATIONS

SOON, LATER, MUCH_LATER = "2030-01-31", "2030-02-15", "2030-03-01"
REVIEWS = ["change_batch_eta", "review_promises"]

MOVED_AND_LATER = (
    "Order o1 moved to batch b2",
    "The order o1 was promised 3 x LAMP from the batch b1.\n"
    "It is served from the batch b2 now.\n"
    "Now: arrives 2030-02-15\n"
    "Before: arrives 2030-01-31\n",
)
LATER_FROM_B2 = (
    "New day for order o1: arrives 2030-02-15",
    "The order o1 is promised 3 x LAMP from the batch b2.\n"
    "Now: arrives 2030-02-15\n"
    "Before: arrives 2030-01-31\n",
)


@pytest.fixture
def engine(worker_engine: Engine) -> Engine:
    """The notification service's tables."""
    MIGRATIONS.upgrade(worker_engine)
    return worker_engine


@pytest.fixture
def inbox(engine: Engine) -> Resequencer:
    """Notes mails from events."""
    return Resequencer(engine, tables.metadata, mailing.apply, timedelta(seconds=60))


@pytest.fixture
def impatient(engine: Engine) -> Resequencer:
    """Gives up what is missing when it is asked to, at once."""
    ticks = count()
    return Resequencer(
        engine,
        tables.metadata,
        mailing.apply,
        timedelta(0),
        lambda: datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=next(ticks)),
    )


def mails(engine: Engine) -> list[tuple[str, str]]:
    """Subject and text of all, in the order in which they are sent; those of one team."""
    columns = tables.mails.c
    query = select(columns.team, columns.subject, columns.text).order_by(columns.not_before)
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    assert {row.team for row in rows} <= {"orders"}
    return [(row.subject, row.text) for row in rows]


def changed(
    sequence: int, old: str | None, new: str | None, batchref: str = "b1", orderid: str = "o1"
) -> Envelope:
    return envelope(
        "promise_changed",
        sequence,
        "change_batch_eta",
        orderid=orderid,
        batchref=batchref,
        old_eta=old,
        new_eta=new,
    )


def taken(sequence: int, cause: str = "change_batch_eta", batchref: str = "b1") -> Envelope:
    return envelope("deallocated", sequence, cause, orderid="o1", batchref=batchref)


def promised(
    sequence: int,
    eta: str | None,
    cause: str = "change_batch_eta",
    batchref: str = "b2",
    orderid: str = "o1",
) -> Envelope:
    return envelope("allocated", sequence, cause, orderid=orderid, batchref=batchref, eta=eta)


def moves_and_comes_later() -> list[Envelope]:
    """What allocation tells of a line that another batch serves, later than it was promised."""
    return [taken(1), promised(2, LATER), changed(3, SOON, LATER, "b2")]


def splits(events: Sequence[Envelope]) -> list[list[Sequence[Envelope]]]:
    """Every way to take them in batches, in their order."""
    if not events:
        return [[]]
    return [
        [events[:size], *others]
        for size in range(1, len(events) + 1)
        for others in splits(events[size:])
    ]


def test_another_day_is_mailed_with_the_old_one_and_the_batch(
    engine: Engine, inbox: Resequencer
) -> None:
    inbox.take([changed(1, SOON, LATER, "b2")])

    assert mails(engine) == [LATER_FROM_B2]


def test_stock_without_a_day_is_on_the_shelf(engine: Engine, inbox: Resequencer) -> None:
    """It came, or it turned out to be still at sea."""
    inbox.take([changed(1, SOON, None), changed(3, None, LATER, orderid="o2")])
    inbox.take([envelope("batch_created", 2)])

    assert mails(engine) == [
        (
            "New day for order o1: on the shelf",
            "The order o1 is promised 3 x LAMP from the batch b1.\n"
            "Now: on the shelf\n"
            "Before: arrives 2030-01-31\n",
        ),
        (
            "New day for order o2: arrives 2030-02-15",
            "The order o2 is promised 3 x LAMP from the batch b1.\n"
            "Now: arrives 2030-02-15\n"
            "Before: on the shelf\n",
        ),
    ]


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"eta": LATER}, "Now: arrives 2030-02-15\n"),
        ({"eta": None}, "Now: on the shelf\n"),
        ({}, ""),
    ],
    ids=["a day", "the shelf", "not told"],
)
def test_the_mail_about_a_move_names_the_day_where_the_event_does(
    engine: Engine, inbox: Resequencer, told: dict[str, object], line: str
) -> None:
    """Events of the first release had none."""
    gets_another = promised(2, None, "allocate_waiting")
    data = {key: value for key, value in gets_another.body["data"].items() if key != "eta"}
    inbox.take([taken(1, "change_batch_quantity")])

    inbox.take([replace(gets_another, data=data | told)])

    assert mails(engine) == [
        (
            "Order o1 moved to batch b2",
            "The order o1 was promised 3 x LAMP from the batch b1.\n"
            f"It is served from the batch b2 now.\n{line}",
        )
    ]


@pytest.mark.parametrize("batches", splits(moves_and_comes_later()), ids=lambda s: str(len(s)))
@pytest.mark.parametrize("times", [1, 2])
def test_a_move_to_another_day_is_one_mail_however_its_events_come(
    engine: Engine, inbox: Resequencer, batches: list[Sequence[Envelope]], times: int
) -> None:
    for batch in batches * times:
        inbox.take(batch)

    assert mails(engine) == [MOVED_AND_LATER]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_a_move_to_another_day_is_one_mail_in_whatever_order_its_events_come(
    engine: Engine, inbox: Resequencer, order: tuple[int, ...]
) -> None:
    for index in order:
        inbox.take([moves_and_comes_later()[index]])

    assert mails(engine) == [MOVED_AND_LATER]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_a_move_to_another_day_is_one_mail_though_some_of_its_events_come_too_late(
    engine: Engine, impatient: Resequencer, order: tuple[int, ...]
) -> None:
    """It names the old batch when the event that tells it came in time."""
    for index in order:
        impatient.take([moves_and_comes_later()[index]])
        impatient.give_up_waiting()

    assert mails(engine) == [MOVED_AND_LATER if order[0] == 0 else LATER_FROM_B2]


@pytest.mark.parametrize("cause", REVIEWS)
def test_a_move_to_a_batch_of_the_same_day_is_mailed(
    engine: Engine, inbox: Resequencer, cause: str
) -> None:
    inbox.take([taken(1, cause), promised(2, SOON, cause), envelope("batch_created", 3)])

    assert mails(engine) == [
        (
            "Order o1 moved to batch b2",
            "The order o1 was promised 3 x LAMP from the batch b1.\n"
            "It is served from the batch b2 now.\n"
            "Now: arrives 2030-01-31\n",
        )
    ]


def test_a_mail_that_somebody_began_to_send_stays_as_it_is(
    engine: Engine, inbox: Resequencer
) -> None:
    """And the other half of its news is no mail of its own: the new day is told."""
    left, moved, day = moves_and_comes_later()
    inbox.take([left, moved])
    with engine.begin() as connection:
        connection.execute(update(tables.mails).values(tries=1))

    inbox.take([day])

    subject, text = MOVED_AND_LATER
    assert mails(engine) == [(subject, text.replace("Before: arrives 2030-01-31\n", ""))]


def test_each_further_change_of_the_day_is_a_mail_of_its_own(
    engine: Engine, inbox: Resequencer
) -> None:
    inbox.take(moves_and_comes_later())
    inbox.take([envelope("batch_created", 4), changed(5, LATER, MUCH_LATER, "b2")])

    assert [subject for subject, _ in mails(engine)] == [
        "Order o1 moved to batch b2",
        "New day for order o1: arrives 2030-03-01",
    ]


def test_another_line_that_moved_just_before_does_not_swallow_the_mail(
    engine: Engine, inbox: Resequencer
) -> None:
    inbox.take([taken(1), promised(2, LATER), changed(3, SOON, MUCH_LATER, orderid="o2")])

    assert [subject for subject, _ in mails(engine)] == [
        "Order o1 moved to batch b2",
        "New day for order o2: arrives 2030-03-01",
    ]


def test_another_day_is_mailed_though_it_is_told_late(
    engine: Engine, impatient: Resequencer
) -> None:
    impatient.take([envelope("batch_created", 2)])
    impatient.give_up_waiting()

    impatient.take([changed(1, SOON, LATER, "b2")])

    assert mails(engine) == [LATER_FROM_B2]


@pytest.mark.parametrize(
    ("newer", "mailed"),
    [
        (changed(2, LATER, MUCH_LATER), ["New day for order o1: arrives 2030-03-01"]),
        (taken(2), []),
    ],
    ids=["another day", "on the move"],
)
def test_another_day_that_is_told_late_is_not_mailed_after_newer_things(
    engine: Engine, impatient: Resequencer, newer: Envelope, mailed: list[str]
) -> None:
    impatient.take([newer])
    impatient.give_up_waiting()

    impatient.take([changed(1, SOON, LATER)])

    assert [subject for subject, _ in mails(engine)] == mailed
