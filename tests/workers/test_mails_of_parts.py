"""The mails about lines that several batches serve: whole histories, and all of their mails."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import count, zip_longest

import pytest
from sqlalchemy import Engine, insert, select

from allocation.messaging.cloudevents import Envelope
from allocation.messaging.resequencer import Resequencer
from tests.workers.conftest import envelope
from workers.notification import mailing, tables
from workers.notification.running import MIGRATIONS

SOON, LATER = "2030-01-31", "2030-02-15"

Mail = tuple[str, str, str]
"""Team, subject and text."""


@dataclass(frozen=True)
class Step:
    """One event of a history; its number is its place."""

    kind: str
    cause: str
    data: dict[str, object]

    def event(self, sequence: int, sku: str) -> Envelope:
        return envelope(
            self.kind, sequence, self.cause, **{"orderid": "o1", "sku": sku} | self.data
        )


def step(kind: str, cause: str, part: int, data: dict[str, object], waiting: int = 0) -> Step:
    """As on the wire: numbers that are 0 are absent."""
    numbers = {"part": part, "waiting": waiting}
    return Step(kind, cause, data | {name: number for name, number in numbers.items() if number})


def left(
    part: int, batchref: str | None, qty: int, cause: str = "write_off", orderid: str = "o1"
) -> Step:
    data: dict[str, object] = {"orderid": orderid, "batchref": batchref, "qty": qty}
    return step("deallocated", cause, part, data)


def served(
    part: int,
    batchref: str,
    qty: int,
    waiting: int = 0,
    eta: str | None = None,
    cause: str = "allocate_waiting",
    orderid: str = "o1",
) -> Step:
    data: dict[str, object] = {"orderid": orderid, "batchref": batchref, "qty": qty, "eta": eta}
    return step("allocated", cause, part, data, waiting)


def waits(qty: int, part: int = 0) -> Step:
    return step("out_of_stock", "allocate_waiting", part, {"qty": qty})


def comes(part: int, batchref: str, qty: int, old: str | None, new: str | None) -> Step:
    data: dict[str, object] = {"batchref": batchref, "qty": qty, "old_eta": old, "new_eta": new}
    return step("promise_changed", "change_batch_eta", part, data)


def held(part: int, batchref: str, qty: int, waiting: int = 0, cause: str = "reserve") -> Step:
    data: dict[str, object] = {"batchref": batchref, "qty": qty, "eta": None}
    return step("reserved", cause, part, data, waiting)


def released(part: int, batchref: str | None, qty: int, reason: str) -> Step:
    data: dict[str, object] = {"batchref": batchref, "qty": qty, "reason": reason}
    return step("reservation_released", "write_off", part, data)


def sent(part: int, batchref: str, qty: int) -> Step:
    return step("dispatched", "dispatch", part, {"batchref": batchref, "qty": qty})


def out_of_stock(qty: int) -> Mail:
    return (
        "stock",
        f"Out of stock: {qty} x LAMP for order o1",
        f"No batch can serve {qty} x LAMP for the order o1.\n"
        "The order waits and is served as soon as stock fits.\n",
    )


def still_out_of_stock(waiting: int, qty: int, batchref: str) -> Mail:
    return (
        "stock",
        f"Still out of stock: {waiting} x LAMP for order o1",
        f"The batch {batchref} serves {qty} x LAMP that the order o1 waited for.\n"
        f"Still waiting: {waiting} x LAMP.\n",
    )


def moved(qty: int, old: str, new: str, days: str = "Now: on the shelf\n") -> Mail:
    """A line of one batch."""
    return (
        "orders",
        f"Order o1 moved to batch {new}",
        f"The order o1 was promised {qty} x LAMP from the batch {old}.\n"
        f"It is served from the batch {new} now.\n{days}",
    )


def pieces_moved(qty: int, batchref: str, text: str) -> Mail:
    return ("orders", f"Order o1: {qty} of the pieces moved to batch {batchref}", text)


NEW_DAY_OF_PART_1 = (
    "orders",
    "New day for 2 of the pieces of order o1: arrives 2030-02-15",
    "The order o1 is promised 2 of the pieces of LAMP from the batch b2.\n"
    "Now: arrives 2030-02-15\n"
    "Before: arrives 2030-01-31\n",
)

HISTORIES: dict[str, tuple[list[Step], list[Mail]]] = {
    "a whole line moves": (
        [served(0, "b1", 3), left(0, "b1", 3), served(0, "b2", 3)],
        [moved(3, "b1", "b2")],
    ),
    "a whole line moves over a wait": (
        [left(0, "b1", 3), waits(3), served(0, "b2", 3)],
        [out_of_stock(3), moved(3, "b1", "b2")],
    ),
    "a whole line waits and is served": (
        [waits(3), served(0, "b1", 3)],
        [out_of_stock(3)],
    ),
    "two parts are on the move at once and change places": (
        [left(1, "b1", 2), left(2, "b2", 3), served(2, "b3", 3), served(1, "b4", 2)],
        [
            pieces_moved(
                *(3, "b3"),
                "The batch b3 serves 3 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 3 of 3 from the batch b2.\n"
                "Now: on the shelf\n",
            ),
            pieces_moved(
                *(2, "b4"),
                "The batch b4 serves 2 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 2 of 2 from the batch b1.\n"
                "Now: on the shelf\n",
            ),
        ],
    ),
    "a part gets another day while another one is on the move": (
        [left(0, "b1", 5), comes(1, "b2", 2, SOON, LATER), served(0, "b3", 5)],
        [NEW_DAY_OF_PART_1, moved(5, "b1", "b3")],
    ),
    "a part gets another day just after another one moved": (
        [left(0, "b1", 5), served(0, "b3", 5), comes(1, "b2", 2, SOON, LATER)],
        [moved(5, "b1", "b3"), NEW_DAY_OF_PART_1],
    ),
    "one part returns to its batch while another one moves": (
        [left(0, "b1", 5), left(1, "b2", 2), served(1, "b2", 2), served(0, "b3", 5)],
        [moved(5, "b1", "b3")],
    ),
    "pieces of two batches are pooled and one batch serves them": (
        [left(0, "b1", 2), left(1, "b2", 3), waits(5), served(0, "b3", 5)],
        [
            out_of_stock(5),
            pieces_moved(
                *(5, "b3"),
                "The batch b3 serves 5 x LAMP for the order o1 now.\n"
                "Moved: 2 of 5 from the batch b1, 3 of 5 from the batch b2.\n"
                "Now: on the shelf\n",
            ),
        ],
    ),
    "pieces of two batches are pooled and served piecemeal under other numbers": (
        [
            *(left(1, "b1", 2), left(2, "b2", 3)),
            *(served(3, "b3", 1, waiting=4), served(4, "b4", 3, waiting=1, eta=SOON)),
            served(1, "b5", 1),
        ],
        [
            pieces_moved(
                *(1, "b3"),
                "The batch b3 serves 1 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 1 of 1 from the batch b1.\n"
                "Still waiting: 4 x LAMP.\n"
                "Now: on the shelf\n",
            ),
            pieces_moved(
                *(3, "b4"),
                "The batch b4 serves 3 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 1 of 3 from the batch b1, 2 of 3 from the batch b2.\n"
                "Still waiting: 1 x LAMP.\n"
                "Now: arrives 2030-01-31\n",
            ),
            pieces_moved(
                *(1, "b5"),
                "The batch b5 serves 1 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 1 of 1 from the batch b2.\n"
                "Now: on the shelf\n",
            ),
        ],
    ),
    "some of what waited is served, and then the rest": (
        [waits(10), served(1, "b1", 4, waiting=6), served(0, "b2", 6)],
        [out_of_stock(10), still_out_of_stock(6, 4, "b1")],
    ),
    "two batches serve some of what waited in one step": (
        # Each of the two events says what waits after both.
        [waits(10), served(1, "b1", 4, waiting=3), served(2, "b2", 3, waiting=3)],
        [out_of_stock(10), still_out_of_stock(3, 4, "b1"), still_out_of_stock(3, 3, "b2")],
    ),
    "a new line is served in part at once": (
        [served(1, "b1", 4, waiting=6, cause="allocate"), waits(6)],
        [out_of_stock(6)],
    ),
    "some of what moves is told to wait longer": (
        [left(0, "b1", 10), waits(10), served(1, "b2", 4, waiting=6), served(0, "b3", 6)],
        [
            out_of_stock(10),
            pieces_moved(
                *(4, "b2"),
                "The batch b2 serves 4 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 4 of 4 from the batch b1.\n"
                "Still waiting: 6 x LAMP.\n"
                "Now: on the shelf\n",
            ),
            still_out_of_stock(6, 4, "b2"),
            moved(6, "b1", "b3"),
        ],
    ),
    "pieces that moved are served with others that never had a batch": (
        [waits(5), left(1, "b1", 3), waits(8), served(0, "b2", 8)],
        [
            out_of_stock(5),
            out_of_stock(8),
            pieces_moved(
                *(3, "b2"),
                "The batch b2 serves 8 x LAMP for the order o1 now.\n"
                "Moved: 3 of 8 from the batch b1.\n"
                "Now: on the shelf\n",
            ),
        ],
    ),
    "a batch that lost a part serves some of it again": (
        [left(0, "b1", 5), served(1, "b1", 3, waiting=2), waits(2), served(0, "b2", 2)],
        [out_of_stock(2), moved(2, "b1", "b2")],
    ),
    "a batch that serves a part already takes all that waits": (
        [waits(4), left(1, "b2", 3), served(1, "b2", 7)],
        [out_of_stock(4)],
    ),
    "a batch that serves a part already takes some of what waits": (
        [waits(6), left(1, "b2", 3), served(1, "b2", 5, waiting=4)],
        [out_of_stock(6), still_out_of_stock(4, 2, "b2")],
    ),
    "a batch that serves a part already takes what another batch lost": (
        [left(2, "b1", 2), waits(2, part=2), left(1, "b2", 3), served(1, "b2", 5)],
        [
            out_of_stock(2),
            pieces_moved(
                *(2, "b2"),
                "The batch b2 serves 5 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 2 of 5 from the batch b1.\n"
                "Now: on the shelf\n",
            ),
        ],
    ),
    "a late batch's part moves while other pieces wait": (
        [
            *(left(0, "b0", 4), waits(4), left(2, "b1", 2, cause="change_batch_eta")),
            served(2, "b3", 2, waiting=4, eta=LATER, cause="change_batch_eta"),
            comes(2, "b3", 2, SOON, LATER),
        ],
        [
            out_of_stock(4),
            pieces_moved(
                *(2, "b3"),
                "The batch b3 serves 2 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 2 of 2 from the batch b1.\n"
                "Still waiting: 4 x LAMP.\n"
                "Now: arrives 2030-02-15\n"
                "Before: arrives 2030-01-31\n",
            ),
        ],
    ),
    "a late batch's part joins the part that another batch serves, while other pieces wait": (
        [
            *(left(0, "b0", 4), waits(4)),
            left(2, "b1", 2, cause="change_batch_eta"),
            left(1, "b3", 3, cause="change_batch_eta"),
            served(1, "b3", 5, waiting=4, eta=LATER, cause="change_batch_eta"),
            comes(1, "b3", 2, SOON, LATER),
            served(0, "b4", 4),
        ],
        [
            out_of_stock(4),
            pieces_moved(
                *(2, "b3"),
                "The batch b3 serves 5 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 2 of 5 from the batch b1.\n"
                "Still waiting: 4 x LAMP.\n"
                "Now: arrives 2030-02-15\n"
                "Before: arrives 2030-01-31\n",
            ),
            moved(4, "b0", "b4"),
        ],
    ),
    "a part moves twice": (
        [left(1, "b1", 2), served(1, "b2", 2), left(1, "b2", 2), served(1, "b3", 2)],
        [
            pieces_moved(
                *(2, "b2"),
                "The batch b2 serves 2 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 2 of 2 from the batch b1.\n"
                "Now: on the shelf\n",
            ),
            pieces_moved(
                *(2, "b3"),
                "The batch b3 serves 2 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 2 of 2 from the batch b2.\n"
                "Now: on the shelf\n",
            ),
        ],
    ),
    "a late batch's part joins another one, and nobody was told yet of the pieces that wait": (
        [
            *(left(0, "b0", 4), left(3, "b9", 1, orderid="o2")),
            left(2, "b1", 2, cause="change_batch_eta"),
            left(1, "b3", 3, cause="change_batch_eta"),
            served(1, "b3", 5, waiting=4, cause="change_batch_eta"),
            served(0, "b4", 4),
        ],
        [
            pieces_moved(
                *(2, "b3"),
                "The batch b3 serves 5 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 2 of 5 from the batch b1.\n"
                "Still waiting: 4 x LAMP.\n"
                "Now: on the shelf\n",
            ),
            moved(4, "b0", "b4"),
        ],
    ),
    "pieces are lost while others wait, and some are served before that is told": (
        [
            *(waits(5), left(1, "b1", 3)),
            *(served(2, "b2", 2, waiting=6), waits(6), served(0, "b3", 6)),
        ],
        [
            out_of_stock(5),
            pieces_moved(
                *(2, "b2"),
                "The batch b2 serves 2 of the pieces of LAMP for the order o1 now.\n"
                "Moved: 2 of 2 from the batch b1.\n"
                "Still waiting: 6 x LAMP.\n"
                "Now: on the shelf\n",
            ),
            out_of_stock(6),
            pieces_moved(
                *(1, "b3"),
                "The batch b3 serves 6 x LAMP for the order o1 now.\n"
                "Moved: 1 of 6 from the batch b1.\n"
                "Now: on the shelf\n",
            ),
        ],
    ),
    "another order's line of the same part moves meanwhile": (
        [
            *(left(1, "b1", 2), left(1, "b2", 3, orderid="o2"), waits(2, part=1)),
            *(served(1, "b2", 3, orderid="o2"), served(0, "b3", 2)),
        ],
        [out_of_stock(2), moved(2, "b1", "b3")],
    ),
    "a line in parts is given up and ordered again": (
        [
            *(left(2, "b2", 3), waits(3)),
            *(left(1, "b1", 2, cause="deallocate"), left(0, None, 3, cause="deallocate")),
            *(served(1, "b3", 4, waiting=1, cause="allocate"), waits(1)),
        ],
        [out_of_stock(3), out_of_stock(1)],
    ),
    "a part whose new promise was never told waits no more when the rest is told": (
        [left(1, "b1", 2), left(2, "b2", 3), waits(3), served(0, "b3", 3)],
        [out_of_stock(3), moved(3, "b2", "b3")],
    ),
    "a part whose new promise was never told is sent": (
        [left(1, "b1", 2), sent(1, "b2", 2), served(0, "b3", 3)],
        [],
    ),
    "a part whose loss was never told takes nothing from those that wait": (
        [left(0, "b1", 4), waits(4), served(2, "b3", 2, waiting=4), served(0, "b2", 4)],
        [out_of_stock(4), moved(4, "b1", "b2")],
    ),
    "a held line moves and is confirmed, and some of what waits is served": (
        [
            *(held(1, "b1", 4, waiting=6), waits(6)),
            *(released(1, "b1", 4, "moved"), held(2, "b2", 4, waiting=6, cause="write_off")),
            held(2, "b2", 4, waiting=6, cause="extend"),
            served(2, "b2", 4, waiting=6, cause="confirm"),
            served(3, "b3", 5, waiting=1),
        ],
        [out_of_stock(6), still_out_of_stock(1, 5, "b3")],
    ),
    "a held line expires and is ordered again": (
        [
            *(held(1, "b1", 4, waiting=6), waits(6)),
            *(released(1, "b1", 4, "expired"), released(0, None, 6, "expired")),
            *(served(1, "b2", 7, waiting=3, cause="allocate"), waits(3)),
        ],
        [out_of_stock(6), out_of_stock(3)],
    ),
}


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
    """Goes on without missing events at once when it is asked to."""
    ticks = count()
    return Resequencer(
        engine,
        tables.metadata,
        mailing.apply,
        timedelta(0),
        lambda: datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=next(ticks)),
    )


def mails(engine: Engine, sku: str = "LAMP") -> list[Mail]:
    """All mails about one sku, in the order of their events; the sku is called LAMP."""
    columns = tables.mails.c
    query = (
        select(columns.team, columns.subject, columns.text)
        .where(columns.sku == sku)
        .order_by(columns.sequence, columns.team)
    )
    with engine.connect() as connection:
        rows = connection.execute(query).all()
    return [
        (row.team, row.subject.replace(sku, "LAMP"), row.text.replace(sku, "LAMP")) for row in rows
    ]


def events(steps: Sequence[Step], sku: str = "LAMP") -> list[Envelope]:
    return [each.event(sequence, sku) for sequence, each in enumerate(steps, start=1)]


def deliveries(events: list[Envelope]) -> Iterator[list[list[Envelope]]]:
    """Ways in which events come: two transactions, cut in every place, or one each; or reversed."""
    for cut in range(len(events)):
        yield [events[:cut], events[cut:]]
    one_by_one = [[event] for event in events]
    yield one_by_one
    yield one_by_one[::-1]


@pytest.mark.parametrize("worker_engine", ["sqlite"], indirect=True)
@pytest.mark.parametrize(("steps", "expected"), HISTORIES.values(), ids=HISTORIES.keys())
def test_a_history_leads_to_these_mails_however_its_events_come(
    engine: Engine, inbox: Resequencer, steps: list[Step], expected: list[Mail]
) -> None:
    for way in range(len(steps) + 2):
        sku = f"LAMP-{way}"
        batches = list(deliveries(events(steps, sku)))[way]

        for batch in batches * 2:  # an event that comes again leads to no mail again
            inbox.take(batch)

        assert mails(engine, sku) == expected, f"delivered as {[len(batch) for batch in batches]}"


def test_the_histories_of_many_products_are_kept_apart(engine: Engine, inbox: Resequencer) -> None:
    skus = {f"LAMP-{number}": history for number, history in enumerate(HISTORIES.values())}
    told = {sku: events(steps, sku) for sku, (steps, _) in skus.items()}

    for round_ in zip_longest(*told.values()):
        inbox.take([event for event in round_ if event])

    assert {sku: mails(engine, sku) for sku in skus} == {
        sku: expected for sku, (_, expected) in skus.items()
    }


@pytest.mark.parametrize(
    "last",
    [
        served(0, "b2", 4),
        left(0, None, 4, cause="deallocate"),
        released(0, None, 4, "expired"),
        sent(0, "b2", 4),
    ],
    ids=lambda step: step.kind,
)
def test_nothing_is_kept_of_a_line_that_waits_no_more(
    engine: Engine, inbox: Resequencer, last: Step
) -> None:
    inbox.take(events([left(0, "b1", 3), waits(4), last]))

    with engine.connect() as connection:
        assert connection.execute(select(tables.moving)).all() == []


def test_two_mails_about_one_event_are_two_to_mail_programs(
    engine: Engine, inbox: Resequencer
) -> None:
    steps, _ = HISTORIES["some of what moves is told to wait longer"]

    inbox.take(events(steps))

    columns = tables.mails.c
    with engine.connect() as connection:
        query = select(columns.event_id, columns.team).where(columns.sequence == 3)
        ids = {row.team: row.event_id for row in connection.execute(query)}
    assert ids.keys() == {"orders", "stock"}
    assert ids["orders"] == events(steps)[2].id != ids["stock"]


def test_a_promise_that_comes_late_does_not_say_what_waited_then(
    engine: Engine, impatient: Resequencer
) -> None:
    steps = [
        *(left(0, "b1", 5), waits(5), served(1, "b2", 2, waiting=3)),
        served(0, "b3", 3),
    ]
    *first, late, last = events(steps)
    impatient.take([*first, last])
    impatient.give_up_waiting()

    impatient.take([late])

    assert mails(engine) == [
        out_of_stock(5),
        pieces_moved(
            *(2, "b2"),
            "The batch b2 serves 2 of the pieces of LAMP for the order o1 now.\n"
            "Moved: 2 of 2 from the batch b1.\n"
            "Now: on the shelf\n",
        ),
        moved(3, "b1", "b3"),
    ]


def test_a_part_whose_loss_comes_late_is_not_mailed_as_moved_and_another_one_is(
    engine: Engine, impatient: Resequencer
) -> None:
    steps = [left(1, "b1", 2), left(0, "b2", 3), served(1, "b3", 2, waiting=3), served(0, "b4", 3)]
    late, *others = events(steps)
    impatient.take(others[:1])
    impatient.give_up_waiting()

    impatient.take([late])
    impatient.take(others[1:])

    assert mails(engine) == [moved(3, "b2", "b4")]


def test_a_row_of_the_release_before_stands_for_all_pieces_of_its_line(
    engine: Engine, inbox: Resequencer
) -> None:
    with engine.begin() as connection:
        for orderid in ("o1", "o2"):
            row = {"orderid": orderid, "sku": "LAMP", "batchref": "b1", "sequence": 1}
            connection.execute(insert(tables.moving).values(row))
    _, *others = events(
        [
            left(0, "b1", 3),  # which the row stands for
            served(0, "b2", 3),
            left(1, "b3", 2, orderid="o2"),
            served(1, "b4", 2, orderid="o2"),
            served(0, "b5", 4, orderid="o2"),
        ]
    )

    inbox.take(others, oldest={others[0].id})

    assert [subject for _, subject, _ in mails(engine)] == [
        "Order o1 moved to batch b2",
        "Order o2: 2 of the pieces moved to batch b4",
        "Order o2 moved to batch b5",
    ]
    assert mails(engine)[0] == moved(3, "b1", "b2")
    with engine.connect() as connection:
        assert connection.execute(select(tables.moving)).all() == []
