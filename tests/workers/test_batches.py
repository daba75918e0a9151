"""Batches of events: one transaction, and each event with its own result."""

import random
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, func, insert, select, text
from sqlalchemy import event as listening
from structlog.testing import capture_logs

from allocation.messaging import database
from allocation.messaging.cloudevents import Envelope, from_json
from allocation.messaging.resequencer import WINDOW, Due, ReceivedEvents, Resequencer
from tests.waiting import eventually
from tests.workers.conftest import envelope, event
from tests.workers.test_resequencer import lived, noting, picks_after, picks_of, stream
from workers.warehouse import pick_list, tables
from workers.warehouse.running import MIGRATIONS

Seen = list[tuple[str, int, bool]]


@pytest.fixture
def engine(worker_engine: Engine) -> Engine:
    """The warehouse's tables."""
    MIGRATIONS.upgrade(worker_engine)
    return worker_engine


def warehouse(engine: Engine) -> Resequencer:
    return Resequencer(engine, tables.metadata, pick_list.apply, timedelta(seconds=60))


def received(engine: Engine) -> int | None:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(tables.received))


def test_a_batch_is_one_transaction(engine: Engine) -> None:
    events = lived()
    _, one_by_one = picks_after(engine, events)
    _, nothing = picks_after(engine, [])
    with engine.begin() as connection:
        ReceivedEvents(connection, tables.metadata).start({event.subject for event in events})
    commits: list[object] = []
    listening.listen(engine, "commit", commits.append)

    warehouse(engine).take(events)

    assert len(commits) == 1
    assert (nothing, picks_of(engine)) == ([], one_by_one)


def test_a_repeat_inside_of_a_batch_has_no_effect(engine: Engine) -> None:
    seen: Seen = []
    inbox = noting(engine, seen)
    once = [envelope("allocated", sequence) for sequence in (1, 2, 4)]

    inbox.take(once + once)
    inbox.take([*once, envelope("allocated", 3), *once])

    assert seen == [("LAMP", sequence, False) for sequence in (1, 2, 3, 4)]


def test_events_of_a_batch_are_applied_in_the_order_of_their_sequence(engine: Engine) -> None:
    seen: Seen = []

    noting(engine, seen).take([envelope("allocated", sequence) for sequence in (3, 5, 1, 4, 2)])

    assert seen == [("LAMP", sequence, False) for sequence in (1, 2, 3, 4, 5)]


def test_a_gap_inside_of_a_batch_holds_back_what_is_behind_it(engine: Engine) -> None:
    seen: Seen = []
    inbox = noting(engine, seen)

    inbox.take([envelope("allocated", sequence) for sequence in (5, 1, 4, 2)])
    before = list(seen)
    inbox.take([envelope("allocated", 1, sku="CHAIR"), envelope("allocated", 3)])

    assert before == [("LAMP", 1, False), ("LAMP", 2, False)]
    assert sorted(seen[2:]) == [
        ("CHAIR", 1, False),
        ("LAMP", 3, False),
        ("LAMP", 4, False),
        ("LAMP", 5, False),
    ]


def test_a_crowd_behind_a_gap_follows_at_once_when_it_fills(engine: Engine) -> None:
    """More than are looked at in one step."""
    seen: Seen = []
    inbox = noting(engine, seen)
    crowd = 3 * WINDOW + 1
    inbox.take([envelope("allocated", sequence) for sequence in range(2, crowd + 1)])

    inbox.take([envelope("allocated", 1), envelope("allocated", 1, sku="CHAIR")])

    lamps = [sequence for sku, sequence, _ in seen if sku == "LAMP"]
    assert lamps == list(range(1, crowd + 1))


def test_whoever_knows_nothing_of_a_sku_begins_with_the_oldest_of_a_batch(engine: Engine) -> None:
    """What stands behind it in the same batch follows."""
    seen: Seen = []
    oldest = envelope("allocated", 5)

    noting(engine, seen).take(
        [envelope("allocated", 7), oldest, envelope("allocated", 6)], oldest={oldest.id}
    )

    assert seen == [("LAMP", sequence, False) for sequence in (5, 6, 7)]


def test_of_a_batch_that_fails_nothing_is_done(engine: Engine) -> None:
    def fail_after_the_effects(connection: Connection, due: Sequence[Due]) -> None:
        pick_list.apply(connection, due)
        raise RuntimeError("no luck")

    inbox = Resequencer(engine, tables.metadata, fail_after_the_effects, timedelta(seconds=60))

    with pytest.raises(RuntimeError):
        inbox.take(lived())

    assert (received(engine), picks_of(engine)) == (0, [])


def test_names_may_have_what_databases_write_in_their_own_way(engine: Engine) -> None:
    names = [
        'a "lamp"',
        "back\\slash",
        "{brace,comma}",
        "apostrophe's",
        "NULL",
        "%s",
        "Ü 🛋",
        "\u2028",
    ]
    seen: Seen = []
    inbox = noting(engine, seen)
    events = [envelope("allocated", sequence, sku=sku) for sku in names for sequence in (2, 1)]

    inbox.take(events)
    again = inbox.take(events)

    assert sorted(seen) == sorted((sku, sequence, False) for sku in names for sequence in (1, 2))
    assert again == set()


def test_what_an_early_event_has_in_unknown_fields_is_kept_as_it_came(engine: Engine) -> None:
    early = from_json(event("allocated", 2) | {"note": "\x00"})
    seen: list[Envelope] = []

    def apply(_connection: Connection, due: Sequence[Due]) -> None:
        seen.extend(each.event for each in due)

    inbox = Resequencer(engine, tables.metadata, apply, timedelta(seconds=60))
    inbox.take([early, envelope("allocated", 1, sku="CHAIR")])
    inbox.take([envelope("allocated", 1)])

    assert [each.body for each in seen[2:]] == [early.body]


def test_a_batch_writes_one_log_line_and_an_event_alone_is_named(engine: Engine) -> None:
    first, second, third = (
        envelope("allocated", number, orderid=f"o{number}", batchref="b1", eta=None)
        for number in (1, 2, 3)
    )

    with capture_logs() as lines:
        warehouse(engine).take([first, second])
        warehouse(engine).take([third])

    assert lines == [
        {
            "event": "pick list",
            "log_level": "info",
            "events": 2,
            "opened": 2,
            "orderids": ["o1", "o2"],
        },
        {
            "event": "pick list",
            "log_level": "info",
            "batchref": "b1",
            "opened": True,
            "late": False,
        }
        | third.log_fields(),
    ]


steps = st.tuples(st.sampled_from(["LAMP", "CHAIR", "DESK"]), st.integers(0, 2), st.integers(0, 1))


@settings(
    max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data(), life=st.lists(steps, min_size=1, max_size=16).map(stream))
def test_however_events_are_shuffled_repeated_and_cut_into_batches_the_picks_are_the_same(
    sqlite_engine: Engine, data: st.DataObject, life: list[Envelope]
) -> None:
    """As if each had come once, alone and in order."""
    in_order = picks_after(sqlite_engine, life)
    repeats = data.draw(st.lists(st.sampled_from(life), max_size=5), label="repeats")
    shuffled = data.draw(st.permutations(life + repeats), label="shuffled")
    size = data.draw(st.integers(2, 8), label="size of a batch")

    in_batches = picks_after(sqlite_engine, shuffled, size)

    assert in_batches == in_order


def test_two_processes_with_batches_of_the_same_skus_wait_for_each_other_and_lose_nothing(
    engine: Engine,
) -> None:
    """No circle of them comes about, though each has the skus in another order."""
    skus = [f"SKU-{number}" for number in range(20)]
    events = [
        envelope("allocated", sequence, sku=sku, orderid=f"order-{sequence}", batchref="b1")
        for sequence in range(1, 16)
        for sku in skus
    ]
    together = threading.Barrier(4)

    def consume(seed: int) -> None:
        inbox = warehouse(engine)
        mine = list(events)
        random.Random(seed).shuffle(mine)
        for start in range(0, len(mine), 50):
            together.wait(timeout=20)
            inbox.take(mine[start : start + 50])

    with ThreadPoolExecutor(4) as pool:
        for consumer in [pool.submit(consume, seed) for seed in range(4)]:
            consumer.result()

    opened: dict[str, list[Any]] = {sku: [] for sku in skus}
    for pick in picks_of(engine):
        opened[pick["sku"]].append(pick["opened_sequence"])
    assert opened == {sku: list(range(1, 16)) for sku in skus}
    assert received(engine) == len(events)


def test_skus_that_are_new_to_two_processes_at_once_are_noted_in_one_order(
    empty_database_url: str,
) -> None:
    """Both stand behind a third, and then pass: neither has what the other one waits for."""
    engine = database.engine(empty_database_url)
    MIGRATIONS.upgrade(engine)
    events = [envelope("allocated", 1, sku=f"SKU-{number}") for number in range(60)]

    def waiting() -> bool:
        with engine.connect() as connection:
            locks = (
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            return connection.execute(text(locks)).scalar_one() == 2

    with ThreadPoolExecutor(2) as pool:
        with engine.connect() as third:
            third.execute(insert(tables.progress).values(subject="SKU-30", next_sequence=1))
            consumers = [
                pool.submit(warehouse(engine).take, mine) for mine in (events, events[::-1])
            ]
            eventually(waiting, what="two that wait")
        for consumer in consumers:
            consumer.result()

    assert received(engine) == 60
    engine.dispose()
