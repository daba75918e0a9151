"""Each event takes effect once, and the events of a sku in order."""

import random
import threading
from collections import Counter
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, Table, delete, func, select

from allocation.messaging.cloudevents import Envelope
from allocation.messaging.resequencer import Due, HeldFailed, Resequencer
from tests.workers.conftest import envelope
from workers.warehouse import pick_list, tables
from workers.warehouse.running import MIGRATIONS

Seen = list[tuple[str, int, bool]]


@pytest.fixture
def engine(worker_engine: Engine) -> Engine:
    """The warehouse's tables."""
    MIGRATIONS.upgrade(worker_engine)
    return worker_engine


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def noting(engine: Engine, seen: Seen, clock: Clock | None = None) -> Resequencer:
    """An inbox that notes (sku, sequence, late) of what it applies."""

    def apply(_connection: Connection, due: Sequence[Due]) -> None:
        seen.extend((each.event.subject, each.event.sequence, each.late) for each in due)

    return Resequencer(engine, tables.metadata, apply, timedelta(seconds=60), clock or Clock())


def take_oldest(inbox: Resequencer, event: Envelope) -> None:
    """Take an event before which nothing of its sku will be told any more."""
    inbox.take([event], oldest={event.id})


def test_events_ahead_of_their_turn_wait_for_the_others(engine: Engine) -> None:
    """Also when the first to come is not the first."""
    seen: Seen = []
    inbox = noting(engine, seen)

    for sequence in (3, 2, 5, 1, 4):
        inbox.take([envelope("allocated", sequence, eta=None)])

    assert seen == [("LAMP", sequence, False) for sequence in (1, 2, 3, 4, 5)]


def test_a_repeat_has_no_effect(engine: Engine) -> None:
    seen: Seen = []
    inbox = noting(engine, seen)

    for sequence in (1, 1, 3, 3, 2, 3, 1):
        inbox.take([envelope("allocated", sequence, eta=None)])

    assert [sequence for _, sequence, _ in seen] == [1, 2, 3]


def test_skus_do_not_wait_for_each_other(engine: Engine) -> None:
    seen: Seen = []
    inbox = noting(engine, seen)

    inbox.take([envelope("allocated", 2, eta=None, sku="CHAIR")])
    inbox.take([envelope("allocated", 1, eta=None, sku="LAMP")])

    assert seen == [("LAMP", 1, False)]


def test_a_gap_that_does_not_fill_is_given_up(engine: Engine) -> None:
    seen: Seen = []
    clock = Clock()
    inbox = noting(engine, seen, clock)
    for sequence in (1, 3, 4, 6):
        inbox.take([envelope("allocated", sequence, eta=None)])

    clock.time += timedelta(seconds=59)
    inbox.give_up_waiting()
    before = list(seen)
    clock.time += timedelta(seconds=2)
    inbox.give_up_waiting()
    inbox.give_up_waiting()
    inbox.take([envelope("allocated", 2, eta=None)])
    inbox.take([envelope("allocated", 7, eta=None)])

    assert before == [("LAMP", 1, False)]
    assert [(sequence, late) for _, sequence, late in seen[1:]] == [
        (3, False),
        (4, False),
        (6, False),
        (2, True),
        (7, False),
    ]


def test_an_event_that_is_late_changes_no_pick_that_is_newer(engine: Engine) -> None:
    """Order 1 moved from batch a to b; order 2 gave batch a up, and nobody heard of it."""
    clock = Clock()
    inbox = Resequencer(engine, tables.metadata, pick_list.apply, timedelta(seconds=60), clock)
    inbox.take([envelope("allocated", 1, eta=None, orderid="o1", batchref="a")])
    inbox.take([envelope("allocated", 2, eta=None, orderid="o2", batchref="a")])
    inbox.take([envelope("allocated", 5, eta=None, orderid="o1", batchref="b")])
    clock.time += timedelta(seconds=61)
    inbox.give_up_waiting()

    inbox.take([envelope("deallocated", 3, orderid="o1", batchref="a")])
    inbox.take([envelope("deallocated", 4, orderid="o2", batchref="a")])

    found = [
        (pick["orderid"], pick["batchref"], pick["opened_sequence"], pick["closed_sequence"])
        for pick in picks_of(engine)
    ]
    assert found == [("o1", "a", 1, 5), ("o2", "a", 2, 4), ("o1", "b", 5, None)]


def test_an_effect_that_fails_leaves_the_event_to_be_taken_again(engine: Engine) -> None:
    """The note and the effect are one transaction."""
    tries: list[int] = []

    def fail_once(_connection: Connection, due: Sequence[Due]) -> None:
        tries.extend(each.event.sequence for each in due)
        if len(tries) == 1:
            raise RuntimeError("no luck")

    inbox = Resequencer(engine, tables.metadata, fail_once, timedelta(seconds=60))
    with pytest.raises(RuntimeError):
        inbox.take([envelope("allocated", 1, eta=None)])

    inbox.take([envelope("allocated", 1, eta=None)])

    assert tries == [1, 1]


def test_an_event_that_failed_is_not_noted_and_its_effect_is_undone(engine: Engine) -> None:
    """Nor is what waited behind it."""

    def fail_after_the_effect(connection: Connection, due: Sequence[Due]) -> None:
        pick_list.apply(connection, due)
        raise RuntimeError("no luck")

    inbox = Resequencer(engine, tables.metadata, fail_after_the_effect, timedelta(seconds=60))

    with pytest.raises(RuntimeError):
        inbox.take([envelope("allocated", 1, eta=None)])

    assert (rows(engine, tables.received), pick_list.listed(engine)) == (0, [])


def test_nothing_is_given_up_right_after_a_pause_of_the_consumer(engine: Engine) -> None:
    """What is missing could not come meanwhile, and may be on its way."""
    seen: Seen = []
    clock = Clock()
    noting(engine, [], clock).take([envelope("allocated", 2, eta=None)])
    clock.time += timedelta(hours=1)
    inbox = noting(engine, seen, clock)
    inbox.resume()

    inbox.give_up_waiting()
    inbox.take([envelope("allocated", 1, eta=None)])

    assert seen == [("LAMP", 1, False), ("LAMP", 2, False)]


def test_whoever_knows_nothing_of_a_sku_begins_with_the_oldest_that_is_kept(engine: Engine) -> None:
    """What came before is told no more; also where newer ones came already, or that very one."""
    seen: Seen = []
    inbox = noting(engine, seen)
    for sequence in (7, 5, 8):
        inbox.take([envelope("allocated", sequence, eta=None)])

    take_oldest(inbox, envelope("allocated", 5, eta=None))
    inbox.take([envelope("allocated", 6, eta=None)])
    take_oldest(inbox, envelope("allocated", 3, eta=None, sku="CHAIR"))

    assert seen == [("LAMP", sequence, False) for sequence in (5, 6, 7, 8)] + [("CHAIR", 3, False)]


def test_whoever_knows_a_sku_waits_for_what_is_missing_all_the_same(engine: Engine) -> None:
    """It may be on its way: the log that is replayed need not be all."""
    seen: Seen = []
    inbox = noting(engine, seen)
    inbox.take([envelope("allocated", 1, eta=None)])

    take_oldest(inbox, envelope("allocated", 3, eta=None))
    inbox.take([envelope("allocated", 2, eta=None)])

    assert [sequence for _, sequence, _ in seen] == [1, 2, 3]


def test_nothing_is_given_up_while_the_subscriber_catches_up(engine: Engine) -> None:
    """What is missing stands behind in the queue."""
    seen: Seen = []
    clock = Clock()
    inbox = noting(engine, seen, clock)
    inbox.take([envelope("allocated", 2, eta=None)])

    clock.time += timedelta(seconds=90)
    inbox.still_catching_up()
    clock.time += timedelta(seconds=59)
    inbox.give_up_waiting()
    before = list(seen)
    clock.time += timedelta(seconds=2)
    inbox.give_up_waiting()

    assert (before, seen) == ([], [("LAMP", 2, False)])


def test_an_event_that_waited_and_fails_is_named_and_can_be_dropped(engine: Engine) -> None:
    """Nothing is done until then; told again it is a new event."""
    seen: list[int] = []
    broken = {2}

    def apply(_connection: Connection, due: Sequence[Due]) -> None:
        if broken.intersection(each.event.sequence for each in due):
            raise RuntimeError("no luck")
        seen.extend(each.event.sequence for each in due)

    inbox = Resequencer(engine, tables.metadata, apply, timedelta(seconds=60))
    inbox.take([envelope("allocated", 2, eta=None)])
    with pytest.raises(HeldFailed) as failure:
        inbox.take([envelope("allocated", 1, eta=None)])

    inbox.drop_held(failure.value.event)
    seen.clear()
    inbox.take([envelope("allocated", 1, eta=None)])
    broken.clear()
    inbox.take([envelope("allocated", 2, eta=None)])

    assert failure.value.event == envelope("allocated", 2, eta=None)
    assert seen == [1, 2]


def rows(engine: Engine, table: Table) -> int | None:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(table))


def picks_of(engine: Engine) -> list[dict[str, Any]]:
    return sorted(pick_list.listed(engine), key=lambda pick: (pick["sku"], pick["opened_sequence"]))


Step = tuple[str, int, int]
"""A sku, an order and a batch."""


def stream(steps: list[Step]) -> list[Envelope]:
    """A valid life of the skus: each step promises a line stock, or takes its promise back."""
    held: dict[tuple[str, int], int] = {}
    told: Counter[str] = Counter()
    events = []
    for sku, order, batch in steps:
        told[sku] += 1
        taken_back = held.pop((sku, order), None)
        if taken_back is None:
            held[sku, order] = batch
        kind, batch = ("allocated", batch) if taken_back is None else ("deallocated", taken_back)
        names = {"orderid": f"order-{order}", "batchref": f"batch-{batch}"}
        events.append(envelope(kind, told[sku], sku=sku, eta=None, **names))
    return events


def lived() -> list[Envelope]:
    """Always the same long life of two skus."""
    chance = random.Random(5)
    return stream(
        [(sku, chance.randrange(4), chance.randrange(3)) for sku in ("LAMP", "CHAIR") * 24]
    )


def picks_after(
    engine: Engine, events: list[Envelope], together: int = 1
) -> tuple[Seen, list[dict[str, Any]]]:
    """What was applied, by sku and in order, and the pick list that came of it.

    So many events are given `together`.
    """
    with engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(delete(table))
    seen: Seen = []

    def apply(connection: Connection, due: Sequence[Due]) -> None:
        seen.extend((each.event.subject, each.event.sequence, each.late) for each in due)
        pick_list.apply(connection, due)

    inbox = Resequencer(engine, tables.metadata, apply, timedelta(seconds=60))
    for start in range(0, len(events), together):
        inbox.take(events[start : start + together])
    return sorted(seen, key=lambda applied: applied[0]), picks_of(engine)


steps = st.tuples(st.sampled_from(["LAMP", "CHAIR"]), st.integers(0, 2), st.integers(0, 1))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), life=st.lists(steps, min_size=1, max_size=16).map(stream))
def test_any_shuffle_with_repeats_gives_the_same_pick_list(
    sqlite_engine: Engine, data: st.DataObject, life: list[Envelope]
) -> None:
    in_order = picks_after(sqlite_engine, life)
    repeats = data.draw(st.lists(st.sampled_from(life), max_size=5), label="repeats")
    shuffled = data.draw(st.permutations(life + repeats), label="shuffled")

    out_of_order = picks_after(sqlite_engine, shuffled)

    assert out_of_order == in_order
    assert len(in_order[0]) == len(life)


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), life=st.lists(steps, min_size=1, max_size=10).map(stream))
def test_however_late_events_come_the_same_picks_are_open_in_the_end(
    sqlite_engine: Engine, data: st.DataObject, life: list[Envelope]
) -> None:
    """Also when nothing is waited for: the newest news of a line wins."""
    _, in_order = picks_after(sqlite_engine, life)
    shuffled = data.draw(st.permutations(life), label="shuffled")
    with sqlite_engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(delete(table))
    clock = Clock()
    impatient = Resequencer(sqlite_engine, tables.metadata, pick_list.apply, timedelta(0), clock)

    for each in shuffled:
        impatient.take([each])
        clock.time += timedelta(seconds=1)
        impatient.give_up_waiting()

    assert open_picks(picks_of(sqlite_engine)) == open_picks(in_order)


def open_picks(picks: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [pick for pick in picks if pick["status"] == "open"]


def test_two_consumers_side_by_side_apply_each_event_once_and_in_order(engine: Engine) -> None:
    """They share the tables, and lock the sku."""
    events = lived()
    _, expected = picks_after(engine, events)
    with engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(delete(table))

    def consume(seed: int) -> None:
        inbox = Resequencer(engine, tables.metadata, pick_list.apply, timedelta(seconds=60))
        mine = list(events)
        random.Random(seed).shuffle(mine)
        for each in mine:
            inbox.take([each])

    consumers = [threading.Thread(target=consume, args=(seed,)) for seed in range(3)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join()

    assert picks_of(engine) == expected
    assert rows(engine, tables.received) == len(events)
