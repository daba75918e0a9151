"""Dispatched goods: the picks, the published event, and events of allocation that come too late."""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, select, text
from sqlalchemy.exc import IntegrityError
from structlog.testing import capture_logs

from allocation.messaging import database
from allocation.messaging.cloudevents import Envelope
from allocation.messaging.resequencer import Resequencer
from tests.faults.gates import Gate
from tests.waiting import eventually
from tests.workers.conftest import envelope
from workers.warehouse import pick_list, tables
from workers.warehouse.dispatching import NothingToDispatch, Wanted, dispatch
from workers.warehouse.running import MIGRATIONS

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
BACK = "a line was cancelled after its goods were dispatched: the pick stays dispatched"
OTHER = "a line was allocated again after its goods were dispatched: nothing more is picked"

PARTLY_BACK = "a line was cancelled after some of its goods were dispatched: these stay dispatched"


@pytest.fixture
def engine(worker_engine: Engine) -> Engine:
    """The warehouse's tables."""
    MIGRATIONS.upgrade(worker_engine)
    return worker_engine


def take(engine: Engine, *events: Envelope) -> None:
    """Each by a batch of its own."""
    inbox = Resequencer(engine, tables.metadata, pick_list.apply, timedelta(seconds=60))
    for event in events:
        inbox.take([event])


def promised(
    sequence: int, orderid: str = "o1", batchref: str = "b1", sku: str = "LAMP", qty: int = 3
) -> Envelope:
    line: dict[str, Any] = {"orderid": orderid, "batchref": batchref, "sku": sku, "qty": qty}
    return envelope("allocated", sequence, eta=None, **line)


def taken(sequence: int, batchref: str = "b1", qty: int = 3) -> Envelope:
    return envelope("deallocated", sequence, orderid="o1", batchref=batchref, qty=qty)


def picks(engine: Engine) -> list[tuple[str, str, str, str]]:
    return [
        (pick["orderid"], pick["sku"], pick["batchref"], pick["status"])
        for pick in pick_list.listed(engine)
    ]


def told(engine: Engine) -> list[dict[str, Any]]:
    """The events of the outbox, by sku."""
    with engine.connect() as connection:
        bodies = connection.scalars(select(tables.outbox.c.body)).all()
    return sorted((json.loads(body) for body in bodies), key=lambda event: str(event["subject"]))


def lines_told(engine: Engine) -> list[tuple[str, str]]:
    return [(event["data"]["orderid"], event["data"]["sku"]) for event in told(engine)]


def test_open_picks_are_dispatched_and_that_is_told_as_a_cloudevent(engine: Engine) -> None:
    """In one transaction, with an id that stays."""
    take(engine, promised(1))

    dispatch(engine, Wanted("o1"), NOW)

    [event] = told(engine)
    assert picks(engine) == [("o1", "LAMP", "b1", "dispatched")]
    event_id = event.pop("id")
    assert UUID(event_id).version == 4
    assert event == {
        "specversion": "1.0",
        "source": "warehouse",
        "type": "warehouse.dispatched.v1",
        "subject": "LAMP",
        "time": "2030-01-01T12:00:00.000000+00:00",
        "datacontenttype": "application/json",
        "correlationid": event_id,
        "data": {"orderid": "o1", "sku": "LAMP", "qty": 3, "batchref": "b1"},
    }


def test_every_open_pick_of_the_order_leaves_and_no_other(engine: Engine) -> None:
    """One event each; what was cancelled stays."""
    take(engine, promised(1), taken(2), promised(3, batchref="b2"), promised(4, "o2"))
    take(engine, promised(1, sku="CHAIR"))

    dispatch(engine, Wanted("o1"), NOW)

    assert sorted(picks(engine)) == [
        ("o1", "CHAIR", "b1", "dispatched"),
        ("o1", "LAMP", "b1", "cancelled"),
        ("o1", "LAMP", "b2", "dispatched"),
        ("o2", "LAMP", "b1", "open"),
    ]
    assert lines_told(engine) == [("o1", "CHAIR"), ("o1", "LAMP")]


def test_one_sku_may_leave_alone(engine: Engine) -> None:
    take(engine, promised(1), promised(1, sku="CHAIR"))

    dispatch(engine, Wanted("o1", "LAMP"), NOW)
    first = lines_told(engine)
    dispatch(engine, Wanted("o1"), NOW)

    assert first == [("o1", "LAMP")]
    assert lines_told(engine) == [("o1", "CHAIR"), ("o1", "LAMP")]


def test_nothing_leaves_twice(engine: Engine) -> None:
    take(engine, promised(1))
    dispatch(engine, Wanted("o1"), NOW)
    before = told(engine)

    with pytest.raises(NothingToDispatch, match="was already dispatched"):
        dispatch(engine, Wanted("o1"), NOW)

    assert told(engine) == before


def test_what_was_cancelled_does_not_leave(engine: Engine) -> None:
    take(engine, promised(1), taken(2))

    with pytest.raises(NothingToDispatch, match="was cancelled"):
        dispatch(engine, Wanted("o1", "LAMP"), NOW)

    assert (picks(engine), told(engine)) == ([("o1", "LAMP", "b1", "cancelled")], [])


def test_of_a_line_in_parts_every_dispatched_pick_is_told_beside_the_newest(engine: Engine) -> None:
    data = {"orderid": "o1", "part": 1, "batchref": "b2", "qty": 2, "eta": None}
    take(engine, promised(1), envelope("allocated", 2, "allocate", **data))
    dispatch(engine, Wanted("o1"), NOW)
    data |= {"part": 2, "batchref": "b3"}
    take(
        engine,
        *[
            envelope(kind, n, "write_off", **data)
            for n, kind in ((3, "allocated"), (4, "deallocated"))
        ],
    )

    with pytest.raises(NothingToDispatch) as reason:
        dispatch(engine, Wanted("o1"), NOW)

    assert list(reason.value.args) == [
        "The pick of 3 x LAMP for the order o1 was already dispatched.",
        "The pick of 2 x LAMP for the order o1 was already dispatched.",
        "The pick of 2 x LAMP for the order o1 was cancelled.",
    ]


def test_a_dispatched_pick_is_not_cancelled_by_news_that_crossed_it(engine: Engine) -> None:
    """Neither taken back nor picked from another batch; the log says so."""
    take(engine, promised(1))
    dispatch(engine, Wanted("o1"), NOW)

    with capture_logs() as logs:
        take(engine, taken(2), promised(3, batchref="b2"), taken(4, "b2"))

    assert picks(engine) == [("o1", "LAMP", "b1", "dispatched")]
    assert [
        (line["event"], line["log_level"], line["sequence"], line["dispatched_batchref"])
        for line in logs
    ] == [(BACK, "warning", 2, "b1"), (OTHER, "warning", 3, "b1"), (BACK, "warning", 4, "b1")]


def test_news_of_before_the_dispatch_that_come_late_are_no_warning(engine: Engine) -> None:
    """They crossed nothing."""
    ticks = iter(range(100))
    impatient = Resequencer(
        engine,
        tables.metadata,
        pick_list.apply,
        timedelta(0),
        lambda: NOW + timedelta(seconds=next(ticks)),
    )
    impatient.take([promised(3, batchref="b2")])
    impatient.give_up_waiting()
    dispatch(engine, Wanted("o1"), NOW)

    with capture_logs() as logs:
        impatient.take([taken(2)])
        impatient.take([promised(1)])

    assert picks(engine) == [("o1", "LAMP", "b2", "dispatched")]
    assert logs == []


@pytest.fixture
def postgresql(empty_database_url: str) -> Iterator[Engine]:
    """The warehouse's tables, where transactions can stand side by side."""
    made = database.engine(empty_database_url)
    MIGRATIONS.upgrade(made)
    yield made
    made.dispose()


def dispatched(engine: Engine) -> str:
    try:
        dispatch(engine, Wanted("o1"), NOW)
    except NothingToDispatch as reason:
        return str(reason)
    return "dispatched"


def side_by_side(engine: Engine, gate: Gate, *acts: Callable[[], object]) -> list[Any]:
    """Begin the second act while the first one stands at the gate; what they returned."""

    def blocked() -> bool:
        # A wait for another transaction names no database: of this one are the waiting sessions.
        waits = (
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()"
            " AND wait_event_type = 'Lock' AND wait_event <> 'advisory'"
        )
        with engine.connect() as connection:
            return connection.execute(text(waits)).scalar_one() > 0

    with ThreadPoolExecutor(2) as pool:
        with gate.shut():
            first = pool.submit(acts[0])
            gate.wait_for_somebody()
            second = pool.submit(acts[1])
            eventually(blocked, what="the second one behind the first")
        return [first.result(), second.result()]


def test_goods_that_have_not_arrived_do_not_leave_until_they_have(engine: Engine) -> None:
    line: dict[str, Any] = {"orderid": "o1", "qty": 3}
    parts: dict[str, Any] = {"b1": None, "ship": "2030-01-31"}
    take(
        engine,
        *[
            envelope("allocated", number, batchref=ref, eta=eta, part=number, **line)
            for number, (ref, eta) in enumerate(parts.items(), start=1)
        ],
    )

    dispatch(engine, Wanted("o1"), NOW)
    first = [event["data"]["batchref"] for event in told(engine)]
    with pytest.raises(NothingToDispatch) as reason:
        dispatch(engine, Wanted("o1", batchref="ship"), NOW)
    arrived: dict[str, Any] = {
        "batchref": "ship",
        "part": 2,
        "old_eta": "2030-01-31",
        "new_eta": None,
    }
    take(engine, envelope("promise_changed", 3, "change_batch_eta", **line, **arrived))
    dispatch(engine, Wanted("o1"), NOW)

    assert first == ["b1"]
    assert reason.value.args == (
        "The pick of 3 x LAMP for the order o1 is expected on 2030-01-31.",
    )
    assert sorted(event["data"]["batchref"] for event in told(engine)) == ["b1", "ship"]


def test_of_a_line_in_parts_the_goods_of_one_batch_may_leave(engine: Engine) -> None:
    take(
        engine,
        *[
            envelope(
                "allocated", part, orderid="o1", batchref=f"b{part}", qty=3, part=part, eta=None
            )
            for part in (1, 2)
        ],
    )

    dispatch(engine, Wanted("o1", batchref="b2", qty=2), NOW)
    dispatch(engine, Wanted("o1", qty=4), NOW)

    said = {(event["data"]["batchref"], event["data"]["qty"]) for event in told(engine)}
    assert said == {("b2", 2), ("b1", 3), ("b2", 1)}
    assert [status for *_, status in picks(engine)] == ["dispatched", "dispatched"]


@pytest.mark.parametrize(
    ("wanted", "why"),
    [
        (Wanted("o1", "LAMP", qty=4), "Only 3 x LAMP can be picked for the order o1 now."),
        (
            Wanted("o1", qty=1),
            "The order o1 has open picks of several skus: CHAIR, LAMP. Give the sku, too.",
        ),
        (
            Wanted("o1", "LAMP", "b2"),
            "The pick list has no pick for the order o1 and the sku LAMP and the batch b2.",
        ),
    ],
)
def test_what_can_not_leave_changes_nothing(engine: Engine, wanted: Wanted, why: str) -> None:
    take(engine, promised(1), promised(1, sku="CHAIR"))
    before = picks(engine)

    with pytest.raises(NothingToDispatch) as reason:
        dispatch(engine, wanted, NOW)

    assert reason.value.args == (why,)
    assert (picks(engine), told(engine)) == (before, [])


def left(engine: Engine) -> list[tuple[str, int, int, str]]:
    """Of each pick: its batch, its pieces, those that have left, and its status."""
    return [
        (pick["batchref"], pick["qty"], pick["dispatched_qty"], pick["status"])
        for pick in pick_list.listed(engine)
    ]


def test_the_rest_of_a_pick_stays_open_when_allocation_says_what_is_left(engine: Engine) -> None:
    """Whether it heard that from this warehouse, or somebody else dispatched more."""
    take(engine, promised(1))
    dispatch(engine, Wanted("o1", qty=1), NOW)
    first = left(engine)

    take(engine, gone(2, qty=1, left=2))
    heard = left(engine)
    take(engine, gone(3, qty=1, left=1))
    more = left(engine)
    take(engine, gone(4, qty=1))

    assert first == heard == [("b1", 3, 1, "open")]
    assert more == [("b1", 3, 2, "open")]
    assert left(engine) == [("b1", 3, 3, "dispatched")]


def test_the_rest_of_a_pick_moves_to_another_batch(engine: Engine) -> None:
    """What has left stays with the first one."""
    take(engine, promised(1))
    dispatch(engine, Wanted("o1", qty=1), NOW)

    with capture_logs() as logs:
        take(engine, gone(2, qty=1, left=2), taken(3, qty=2), promised(4, batchref="b2", qty=2))

    assert left(engine) == [("b1", 3, 1, "cancelled"), ("b2", 2, 0, "open")]
    assert [line for line in logs if line["log_level"] == "warning"] == []


def test_pieces_that_left_while_their_line_moved_are_not_picked_again(engine: Engine) -> None:
    """The log warns of them; once Allocation has them off its books all is as it should be."""
    take(engine, promised(1))
    dispatch(engine, Wanted("o1", qty=1), NOW)

    with capture_logs() as logs:
        take(engine, taken(2), promised(3, batchref="b2"))
    crossed = left(engine)
    take(engine, gone(4, batchref="b2", qty=1, left=2))
    dispatch(engine, Wanted("o1"), NOW)

    assert [(line["event"], line["dispatched"]) for line in logs if "dispatched" in line] == [
        (PARTLY_BACK, 1)
    ]
    assert crossed == [("b1", 3, 1, "cancelled"), ("b2", 3, 1, "open")]
    assert left(engine) == [("b1", 3, 1, "cancelled"), ("b2", 3, 3, "dispatched")]
    assert [event["data"]["qty"] for event in told(engine)] == [1, 2]


def test_a_warehouse_that_was_rebuilt_picks_the_rest(engine: Engine) -> None:
    take(engine, promised(1), gone(2, qty=1, left=2))
    take(engine, gone(1, sku="CHAIR", qty=1, left=1))

    assert left(engine) == [("b1", 3, 1, "open"), ("b1", 2, 1, "open")]


def test_a_line_that_grows_is_picked_whole_again_but_for_what_has_left(engine: Engine) -> None:
    """The same batch is named by two events of one command."""
    take(engine, promised(1))
    dispatch(engine, Wanted("o1", qty=1), NOW)

    take(engine, gone(2, qty=1, left=2), taken(3, qty=2), promised(4, qty=4))

    assert left(engine) == [("b1", 3, 1, "cancelled"), ("b1", 4, 0, "open")]


def test_a_day_that_comes_too_late_is_no_news(engine: Engine) -> None:
    """The goods that have arrived stay there."""
    impatient = Resequencer(engine, tables.metadata, pick_list.apply, timedelta(0))
    line: dict[str, Any] = {"orderid": "o1", "batchref": "ship", "qty": 3}
    impatient.take([envelope("allocated", 1, eta="2030-01-31", **line)])
    impatient.take([envelope("promise_changed", 3, old_eta="2030-02-15", new_eta=None, **line)])
    impatient.give_up_waiting()
    impatient.take(
        [envelope("promise_changed", 2, old_eta="2030-01-31", new_eta="2030-02-15", **line)]
    )

    assert left(engine) == [("ship", 3, 0, "open")]


def test_a_day_of_a_reservation_opens_nothing(engine: Engine) -> None:
    line: dict[str, Any] = {"orderid": "o1", "batchref": "ship", "qty": 3}
    take(engine, envelope("promise_changed", 1, old_eta="2030-01-31", new_eta=None, **line))

    assert left(engine) == []


def test_the_days_and_pieces_outlive_the_upgrade_and_the_way_back(engine: Engine) -> None:
    """The previous release picks what is left."""
    MIGRATIONS.downgrade(engine, "0005")
    old = (
        "INSERT INTO picks (sku, opened_sequence, orderid, qty, batchref, status, opened_at)"
        " VALUES ('LAMP', :n, :o, 3, 'b1', :s, '2030-01-01')"
    )
    with engine.begin() as connection:
        connection.execute(text("INSERT INTO progress (sku, next_sequence) VALUES ('LAMP', 3)"))
        connection.execute(text(old), [{"n": 1, "o": "o1", "s": "open"}])
        connection.execute(text(old), [{"n": 2, "o": "o2", "s": "dispatched"}])

    MIGRATIONS.upgrade(engine)
    upgraded = left(engine)
    dispatch(engine, Wanted("o1", qty=2), NOW)
    MIGRATIONS.downgrade(engine, "0005")

    assert upgraded == [("b1", 3, 0, "open"), ("b1", 3, 3, "dispatched")]
    with engine.connect() as connection:
        rows = connection.execute(text("SELECT qty, status FROM picks ORDER BY orderid")).all()
    assert [tuple(row) for row in rows] == [(1, "open"), (3, "dispatched")]


def test_what_is_being_cancelled_is_not_dispatched(postgresql: Engine) -> None:
    """The dispatch waits, and sees it."""
    take(postgresql, promised(1))
    gate = Gate(postgresql, "picks", event="UPDATE", when="NEW.status = 'cancelled'")

    ends = side_by_side(
        postgresql, gate, lambda: take(postgresql, taken(2)), lambda: dispatched(postgresql)
    )

    assert ends == [None, "The pick of 3 x LAMP for the order o1 was cancelled."]
    assert (picks(postgresql), told(postgresql)) == ([("o1", "LAMP", "b1", "cancelled")], [])


def test_what_is_being_dispatched_is_not_cancelled(postgresql: Engine) -> None:
    """The event waits, and sees it."""
    take(postgresql, promised(1))
    gate = Gate(postgresql, "picks", event="UPDATE", when="NEW.status = 'dispatched'")

    ends = side_by_side(
        postgresql, gate, lambda: dispatched(postgresql), lambda: take(postgresql, taken(2))
    )

    assert ends == ["dispatched", None]
    assert picks(postgresql) == [("o1", "LAMP", "b1", "dispatched")]
    assert lines_told(postgresql) == [("o1", "LAMP")]


def test_two_who_dispatch_at_once_tell_it_once(postgresql: Engine) -> None:
    """The other one hears that it has left."""
    take(postgresql, promised(1))
    gate = Gate(postgresql, "picks", event="UPDATE")

    ends = side_by_side(postgresql, gate, *[lambda: dispatched(postgresql)] * 2)

    assert ends == ["dispatched", "The pick of 3 x LAMP for the order o1 was already dispatched."]
    assert lines_told(postgresql) == [("o1", "LAMP")]


def test_the_tables_know_each_status_and_no_other(engine: Engine) -> None:
    """A pick that is not cancelled was closed by no event."""
    take(engine, promised(1))

    for wrong in ("status = 'lost'", "status = 'cancelled'", "closed_sequence = 2"):
        with pytest.raises(IntegrityError), engine.begin() as connection:
            connection.execute(text(f"UPDATE picks SET {wrong}"))

    assert picks(engine) == [("o1", "LAMP", "b1", "open")]


def test_what_was_dispatched_is_open_to_the_first_release(engine: Engine) -> None:
    """It knows no such status; people can see what is there."""
    take(engine, promised(1), promised(2, "o2"))
    dispatch(engine, Wanted("o1"), NOW)

    MIGRATIONS.downgrade(engine, "0002")

    with engine.connect() as connection:
        query = text("SELECT orderid, status FROM picks ORDER BY orderid")
        rows = [tuple(row) for row in connection.execute(query)]
    assert rows == [("o1", "open"), ("o2", "open")]
    with pytest.raises(IntegrityError), engine.begin() as connection:
        connection.execute(text("UPDATE picks SET status = 'dispatched'"))


def gone(sequence: int, **data: object) -> Envelope:
    line: dict[str, Any] = {"orderid": "o1", "batchref": "b1", "qty": 3}
    return envelope("dispatched", sequence, "dispatch", **line | data)


def test_a_warehouse_that_was_rebuilt_hears_what_had_left(engine: Engine) -> None:
    """From allocation, which heard it from the warehouse; it tells nothing anew."""
    take(engine, promised(1), gone(2))

    assert picks(engine) == [("o1", "LAMP", "b1", "dispatched")]
    assert told(engine) == []


def test_what_left_is_not_picked_when_its_promise_comes_late(engine: Engine) -> None:
    """The goods are known before the reason to pick them."""
    impatient = Resequencer(engine, tables.metadata, pick_list.apply, timedelta(0))
    impatient.take([gone(2)])
    impatient.give_up_waiting()
    impatient.take([promised(1)])

    assert picks(engine) == [("o1", "LAMP", "b1", "dispatched")]


def test_that_allocation_heard_of_it_changes_nothing(engine: Engine) -> None:
    """It is told to the one who said so."""
    take(engine, promised(1))
    dispatch(engine, Wanted("o1"), NOW)
    before = picks(engine), told(engine)

    take(engine, gone(2))

    assert (picks(engine), told(engine)) == before


def test_the_parts_of_a_line_are_picks_of_their_own(engine: Engine) -> None:
    """One moves, and the other stays; both leave with the order."""
    take(
        engine,
        envelope("allocated", 1, orderid="o1", batchref="b1", qty=4, part=1, eta=None),
        envelope("allocated", 2, orderid="o1", batchref="b2", qty=5, eta=None),
        envelope("deallocated", 3, orderid="o1", batchref="b1", qty=4, part=1),
        envelope("allocated", 4, orderid="o1", batchref="b3", qty=4, part=2, eta=None),
    )
    before = picks(engine)

    dispatch(engine, Wanted("o1"), NOW)

    assert [(batchref, status) for _, _, batchref, status in before] == [
        ("b1", "cancelled"),
        ("b2", "open"),
        ("b3", "open"),
    ]
    assert [status for *_, status in picks(engine)] == ["cancelled", "dispatched", "dispatched"]
    assert [event["data"]["batchref"] for event in told(engine)] == ["b2", "b3"]
