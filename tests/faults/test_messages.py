"""Messages that come twice, late, in disorder, broken, poisoned, in masses, or to no queue."""

import random
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from kombu import Connection, Queue
from sqlalchemy import text

from allocation.adapters.rabbitmq import topology
from tests.faults import scale
from tests.faults.conftest import Deploy
from tests.faults.fuzz import fuzzed
from tests.faults.history import dead_letters
from tests.faults.load import Sent
from tests.faults.middleman import Middleman
from tests.faults.run import Run
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(900)]


def command(run: Run, folder: Path, *arguments: str) -> None:
    """Run one of the operators' commands to its good end."""
    process = Process(
        [sys.executable, "-m", "allocation", *arguments],
        log=folder / f"{arguments[0]}.log",
        env=run.system.addresses.environment(),
    ).start()
    assert process.wait(120) == 0, process.logs()


def subscribed_queues() -> list[Queue]:
    """The commands' queue and both subscribers', as they are bound."""
    names = (topology.COMMANDS, *topology.SUBSCRIBERS)
    return [queue for queue in topology.queues() if queue.name in names]


@contextmanager
def middlemen(run: Run, **options: object) -> Iterator[list[Middleman]]:
    """One before each queue."""
    started = []
    for number, queue in enumerate(subscribed_queues()):
        chance = random.Random(run.seed + number)
        middleman = Middleman(
            run.system.addresses.broker,
            queue,
            chance=chance,
            **options,  # type: ignore[arg-type]
        )
        middleman.start()
        started.append(middleman)
    yield started
    for middleman in started:
        middleman.close()


def test_every_message_duplicated(deploy: Deploy) -> None:
    """Both copies at the same time to two workers; each command and event takes effect once."""
    run = deploy(workers=2, concurrency=1)

    with middlemen(run, copies=2) as between:
        run.load.send(scale.commands(400), rate=scale.RATE * 2)
        run.settle()
        passed = sum(middleman.passed for middleman in between)
        run.fault("every message duplicated", len(between))

    run.prove()
    assert passed >= 4 * scale.commands(400)


def test_deliveries_shuffled_and_delayed(deploy: Deploy) -> None:
    """Up to two seconds late, in any order, some more than once."""
    run = deploy()

    with middlemen(run, copies=2, longest_delay=2.0) as between:
        run.load.send(scale.commands(300), rate=scale.RATE * 2)
        run.settle()
        run.fault("deliveries shuffled and delayed", len(between))

    run.prove()


def test_fuzzed_messages_among_good_ones(deploy: Deploy, chance: random.Random) -> None:
    """Each ends as a dead letter or a recorded refusal; no good one is harmed, no process ends."""
    run = deploy()
    messages = list(fuzzed(chance, scale.commands(3000)))

    with Connection(run.system.addresses.broker) as connection:
        producer = connection.Producer()
        with run.load.running(scale.RATE):
            for body, properties in messages:
                producer.publish(
                    body,
                    exchange="allocation.commands",
                    routing_key="allocation.commands",
                    serializer=None,
                    **properties,
                )
                time.sleep(0.004)  # among the good ones, not before them
    run.fault("fuzzed message", len(messages))
    run.load.send(scale.commands(200))
    run.settle()

    letters = dead_letters(run.system.addresses.broker, [topology.DEAD])
    dead = {headers["message_id"] for _, headers, _ in letters}
    with run.system.engine.connect() as connection_to_database:
        query = text("SELECT id::text FROM commands WHERE status = 'rejected'")
        refused = set(connection_to_database.scalars(query))
    vanished = [
        properties
        for _, properties in messages
        if properties["message_id"] not in dead and properties["headers"].get("id") not in refused
    ]
    assert vanished == []
    assert all(
        (headers.get("x-reason"), bool(headers.get("x-error"))) != (None, False)
        for _, headers, _ in letters
    )
    run.prove()
    assert run.system.members["worker-1"].restarts == 0


@contextmanager
def poisoned(run: Run, sku: str) -> Iterator[None]:
    """Whatever touches a line of this sku raises, in the database itself."""
    with run.system.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION poison() RETURNS trigger LANGUAGE plpgsql AS"
                " $$ BEGIN RAISE EXCEPTION 'poison'; END $$"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER poison BEFORE INSERT ON allocations FOR EACH ROW"
                f" WHEN (NEW.sku = '{sku}') EXECUTE FUNCTION poison()"
            )
        )
    yield
    with run.system.engine.begin() as connection:
        connection.execute(text("DROP FUNCTION poison CASCADE"))


def poison(run: Run, count: int, rate: float | None = None) -> list[Sent]:
    """Order lines of the sku POISON."""
    given = []
    for number in range(count):
        body = {"orderid": f"poison-{len(run.load.sent)}-{number}", "sku": "POISON", "qty": 1}
        given.append(run.load.give("allocation.allocate", body, "queue"))
        if rate:
            time.sleep(1 / rate)  # a steady stream
    return given


def stock_up(run: Run, sku: str) -> None:
    body = {"batchref": f"base-{sku}", "sku": sku, "qty": 10_000}
    sent = run.load.give("allocation.create_batch", body, "accept")
    run.load.flush()
    eventually(lambda: sent.id in run.load.decided(), within=60, what=f"stock of {sku}")


def p99(run: Run, sent: list[Sent]) -> float:
    """Seconds within which 99 of 100 of these were decided, from when their sender began."""
    run.load.flush()
    run.settle()
    with run.system.engine.connect() as connection:
        rows = connection.execute(text("SELECT id::text, decided_at FROM commands")).all()
    decided = {row.id: row.decided_at.timestamp() for row in rows}
    waits = [decided[str(each.id)] - each.begun_at for each in sent]
    return statistics.quantiles(waits, n=100)[98]


def test_poison_in_a_healthy_stream(deploy: Deploy) -> None:
    """It is dead-lettered at once; the healthy ones are decided as fast as without it."""
    run = deploy()
    stock_up(run, "POISON")
    healthy: dict[bool, list[Sent]] = {True: [], False: []}
    dead: list[Sent] = []

    with poisoned(run, "POISON"):
        for with_poison in (False, True) * 3:  # by turns, so that the machine's moods are shared
            known = set(run.load.sent)
            stop = threading.Event()
            given: list[Sent] = []

            def pour(given: list[Sent] = given, stop: threading.Event = stop) -> None:
                while not stop.wait(0.25):
                    given += poison(run, 1)

            pouring = threading.Thread(target=pour)
            if with_poison:
                pouring.start()
            run.load.send(scale.commands(150), rate=scale.RATE)
            stop.set()
            if with_poison:
                pouring.join()
            dead += given
            bad = {sent.id for sent in given}
            new = [sent for key, sent in run.load.sent.items() if key not in known | bad]
            healthy[with_poison] += [sent for sent in new if sent.way == "queue"]
        normal, among_poison = p99(run, healthy[False]), p99(run, healthy[True])
    run.fault("poison message", len(dead))

    run.prove(failed=[str(sent.id) for sent in dead])
    assert among_poison < 2 * normal, f"p99 {among_poison:.3f} s, {normal:.3f} s without"


def test_queues_unbound_and_deleted(deploy: Deploy, tmp_path: Path) -> None:
    """What nobody would get is not taken as sent; declared again, the queues get it."""
    run = deploy()
    url = run.system.addresses.broker

    with run.load.running(scale.RATE):
        for _ in range(scale.times(3)):
            # An event that is told between the two could not be known to have missed one of them.
            with (
                run.system.frozen("relay"),
                Connection(url) as connection,
                connection.channel() as channel,
            ):
                channel.queue_unbind(topology.COMMANDS, topology.COMMANDS, topology.COMMANDS)
                for name in topology.SUBSCRIBERS:
                    channel.queue_unbind(name, topology.EVENTS, "")
            time.sleep(3)  # under load
            command(run, tmp_path, "topology")
            run.fault("queues unbound", 3)
    run.settle()
    # Nothing is in it or in a worker's hands: whoever deletes a queue deletes what it holds.
    with Connection(url) as connection:
        connection.channel().queue_delete(topology.COMMANDS)
    with run.load.running(scale.RATE):
        time.sleep(5)  # under load
        command(run, tmp_path, "topology")
        run.fault("queue deleted")

    run.prove()


def test_a_subscribers_queue_deleted_with_all_it_holds(deploy: Deploy, tmp_path: Path) -> None:
    """The broker can't tell the relay, as another queue takes the events: a replay brings all."""
    run = deploy()

    with run.load.running(scale.RATE):
        with Connection(run.system.addresses.broker) as connection:
            connection.channel().queue_delete("warehouse.events")
        time.sleep(3)  # events are told meanwhile, to the other subscriber alone
        command(run, tmp_path, "topology")
        run.fault("subscriber's queue deleted")
    command(run, tmp_path, "replay", "--queue", "warehouse.events")

    run.prove()


def test_ten_times_the_load_for_a_minute(deploy: Deploy) -> None:
    """The backlog waits in the queue and the outbox, and is worked off in order."""
    run = deploy(workers=2, concurrency=2)
    seconds = 60 * min(1.0, scale.FACTOR)

    run.load.send(int(seconds * scale.HIGH_RATE), rate=scale.HIGH_RATE)
    run.fault("ten times the load")
    run.settle()
    run.fault("the backlog's end", 0)

    run.prove()


def test_all_dead_letters_replayed_twice(deploy: Deploy, tmp_path: Path) -> None:
    """Once its cause is mended each takes effect, once; the second replay changes nothing."""
    run = deploy()
    stock_up(run, "POISON")
    with poisoned(run, "POISON"):
        dead = poison(run, scale.commands(100))
        run.load.send(scale.commands(100))
        run.settle()
    letters = dead_letters(run.system.addresses.broker, [topology.DEAD])
    assert {headers["id"] for _, headers, _ in letters} == {str(sent.id) for sent in dead}

    for number in range(2):
        command(run, tmp_path, "dead", "replay", "--all")
        run.settle()
        if number == 0:
            # The second time they are copies of what was done already.
            with Connection(run.system.addresses.broker) as connection:
                for _, headers, body in letters:
                    connection.Producer().publish(
                        body.encode(),
                        exchange="",
                        routing_key=topology.DEAD,
                        content_type="application/json",
                        content_encoding="utf-8",
                        headers=headers,
                    )
        run.fault("the whole dead-letter queue replayed", 1)

    run.prove()
