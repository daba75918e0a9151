"""Each event once, and those of a sku in order, whatever the order in which they come."""

import random
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, delete, func, select

from tests.workers.conftest import envelope
from workers import database
from workers.envelope import Envelope
from workers.inbox import Inbox
from workers.warehouse import pick_list, tables
from workers.warehouse.__main__ import MIGRATIONS

Seen = list[tuple[str, int, bool]]


@pytest.fixture
def engine(worker_engine: Engine) -> Engine:
    """The warehouse's tables."""
    database.upgrade(worker_engine, MIGRATIONS, tables.VERSION_TABLE)
    return worker_engine


class Clock:
    """A time that a test sets."""

    def __init__(self) -> None:
        self.time = datetime(2030, 1, 1, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.time


def noting(engine: Engine, seen: Seen, clock: Clock | None = None) -> Inbox:
    """An inbox that notes (sku, sequence, late) of what it applies."""

    def apply(_connection: Connection, event: Envelope, late: bool) -> None:
        seen.append((event.subject, event.sequence, late))

    return Inbox(engine, tables.metadata, apply, timedelta(seconds=60), clock or Clock())


def test_events_ahead_of_their_turn_wait_for_the_others(engine: Engine) -> None:
    """Also when the first to come is not the first."""
    seen: Seen = []
    inbox = noting(engine, seen)

    for sequence in (3, 2, 5, 1, 4):
        inbox.take(envelope("allocated", sequence))

    assert seen == [("LAMP", sequence, False) for sequence in (1, 2, 3, 4, 5)]


def test_a_repeat_has_no_effect(engine: Engine) -> None:
    """Whether its turn has come or not."""
    seen: Seen = []
    inbox = noting(engine, seen)

    for sequence in (1, 1, 3, 3, 2, 3, 1):
        inbox.take(envelope("allocated", sequence))

    assert [sequence for _, sequence, _ in seen] == [1, 2, 3]


def test_skus_do_not_wait_for_each_other(engine: Engine) -> None:
    """A gap holds up its own sku alone."""
    seen: Seen = []
    inbox = noting(engine, seen)

    inbox.take(envelope("allocated", 2, sku="CHAIR"))
    inbox.take(envelope("allocated", 1, sku="LAMP"))

    assert seen == [("LAMP", 1, False)]


def test_a_gap_that_does_not_fill_is_given_up(engine: Engine) -> None:
    """And what was missing is late when it comes after all."""
    seen: Seen = []
    clock = Clock()
    inbox = noting(engine, seen, clock)
    for sequence in (1, 3, 4, 6):
        inbox.take(envelope("allocated", sequence))

    clock.time += timedelta(seconds=59)
    inbox.give_up_waiting()
    before = list(seen)
    clock.time += timedelta(seconds=2)
    inbox.give_up_waiting()
    inbox.give_up_waiting()
    inbox.take(envelope("allocated", 2))
    inbox.take(envelope("allocated", 7))

    assert before == [("LAMP", 1, False)]
    assert [(sequence, late) for _, sequence, late in seen[1:]] == [
        (3, False),
        (4, False),
        (6, False),
        (2, True),
        (7, False),
    ]


def test_an_effect_that_fails_leaves_the_event_to_be_taken_again(engine: Engine) -> None:
    """The note and the effect are one transaction."""
    tries = []

    def fail_once(_connection: Connection, event: Envelope, _late: bool) -> None:
        tries.append(event.sequence)
        if len(tries) == 1:
            raise RuntimeError("no luck")

    inbox = Inbox(engine, tables.metadata, fail_once, timedelta(seconds=60))
    with pytest.raises(RuntimeError):
        inbox.take(envelope("allocated", 1))

    inbox.take(envelope("allocated", 1))

    assert tries == [1, 1]


def stream() -> list[Envelope]:
    """A valid life of two skus: lines promised, moved and given up."""
    chance = random.Random(5)
    events = []
    for sku in ("LAMP", "CHAIR"):
        held: dict[str, str] = {}
        for sequence in range(1, 25):
            orderid = f"order-{chance.randrange(4)}"
            line: dict[str, Any] = {"orderid": orderid, "sku": sku}
            if batchref := held.pop(orderid, None):
                events.append(envelope("deallocated", sequence, batchref=batchref, **line))
            else:
                held[orderid] = f"batch-{chance.randrange(3)}"
                events.append(envelope("allocated", sequence, batchref=held[orderid], **line))
    return events


def picks_after(engine: Engine, events: list[Envelope]) -> list[dict[str, Any]]:
    with engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(delete(table))
    inbox = Inbox(engine, tables.metadata, pick_list.apply, timedelta(seconds=60))
    for each in events:
        inbox.take(each)
    return sorted(pick_list.listed(engine), key=lambda pick: (pick["sku"], pick["opened_sequence"]))


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(chance=st.randoms(use_true_random=False))
def test_any_shuffle_with_repeats_gives_the_same_pick_list(
    tmp_path: Path, chance: random.Random
) -> None:
    """Effects are as if in order."""
    engine = database.engine(f"sqlite:///{tmp_path}/shuffle.db")
    database.upgrade(engine, MIGRATIONS, tables.VERSION_TABLE)
    in_order = picks_after(engine, stream())
    shuffled = stream() + chance.sample(stream(), 10)
    chance.shuffle(shuffled)

    out_of_order = picks_after(engine, shuffled)

    assert out_of_order == in_order
    assert len(in_order) > 10
    engine.dispose()


def test_two_consumers_side_by_side_apply_each_event_once_and_in_order(engine: Engine) -> None:
    """They share the tables, and lock the sku."""
    events = stream()
    expected = picks_after(engine, events)
    with engine.begin() as connection:
        for table in tables.metadata.sorted_tables:
            connection.execute(delete(table))

    def consume(seed: int) -> None:
        inbox = Inbox(engine, tables.metadata, pick_list.apply, timedelta(seconds=60))
        mine = list(events)
        random.Random(seed).shuffle(mine)
        for each in mine:
            inbox.take(each)

    consumers = [threading.Thread(target=consume, args=(seed,)) for seed in range(3)]
    for consumer in consumers:
        consumer.start()
    for consumer in consumers:
        consumer.join()

    found = sorted(
        pick_list.listed(engine), key=lambda pick: (pick["sku"], pick["opened_sequence"])
    )
    assert found == expected
    with engine.connect() as connection:
        received = connection.scalar(select(func.count()).select_from(tables.received))
    assert received == len(events)
