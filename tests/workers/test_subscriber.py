"""The warehouse as a real process on RabbitMQ: bad messages, kills, outages, clean stops."""

import json
import pickle
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection, Queue
from sqlalchemy import Engine

from allocation.adapters import topology
from tests.servers.processes import Process
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.waiting import eventually
from tests.workers.conftest import event
from workers import database
from workers.warehouse import pick_list

QUEUE = "warehouse.events"


@dataclass
class Warehouse:
    """Its broker and database, and how to start it."""

    broker_url: str
    engine: Engine
    environment: dict[str, str]
    start_process: Callable[..., Process]

    def start(self, ready: bool = True) -> Process:
        process = self.start_process(
            [sys.executable, "-m", "workers.warehouse"], name="warehouse", env=self.environment
        )
        if ready:
            process.wait_for_log("ready: consuming")
        return process

    def tell(self, *bodies: Any, **options: Any) -> None:
        """Publish events, or raw bytes."""
        properties = {
            "content_type": "application/cloudevents+json",
            "content_encoding": "utf-8",
        } | options
        with Connection(self.broker_url, transport_options={"confirm_publish": True}) as connection:
            producer = connection.Producer()
            for body in bodies:
                raw = body if isinstance(body, bytes) else json.dumps(body).encode()
                producer.publish(raw, exchange="allocation.events", routing_key="", **properties)

    def picks(self) -> list[tuple[str, str, str]]:
        return [
            (pick["orderid"], pick["batchref"], pick["status"])
            for pick in pick_list.listed(self.engine)
        ]

    def dead(self) -> list[Any]:
        with Connection(self.broker_url) as connection:
            queue = Queue(f"{QUEUE}.dead")(connection.channel())
            letters = []
            while letter := queue.get(accept=None):
                letters.append(letter)
            return letters


@pytest.fixture
def warehouse(
    processes: Callable[..., Process], broker_url: str, empty_database_url: str, state_dir: Path
) -> Iterator[Warehouse]:
    """With every queue declared, not started yet."""
    with Connection(broker_url) as connection:
        topology.declare(connection)
    engine = database.engine(empty_database_url)
    environment = {
        "ALLOCATION_BROKER_URL": broker_url,
        "ALLOCATION_STATE_DIR": str(state_dir),
        "WAREHOUSE_DATABASE_URL": empty_database_url,
    }
    yield Warehouse(broker_url, engine, environment, processes)
    engine.dispose()


def life(count: int) -> list[dict[str, Any]]:
    """Orders that are allocated, every third of which is taken back: `count` events."""
    events: list[dict[str, Any]] = []
    number = 0
    while len(events) < count:
        orderid = f"order-{number:04}"
        number += 1
        events.append(event("allocated", len(events) + 1, orderid=orderid, batchref="b1"))
        if number % 3 == 0:
            events.append(event("deallocated", len(events) + 1, orderid=orderid, batchref="b1"))
    return events


def expected(events: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    gone = {e["data"]["orderid"] for e in events if e["type"] == "allocation.deallocated.v1"}
    orders = [e["data"]["orderid"] for e in events if e["type"] == "allocation.allocated.v1"]
    return [(o, "b1", "cancelled" if o in gone else "open") for o in orders]


def test_bad_messages_go_to_the_dead_letters_with_the_reason_and_the_good_ones_pass(
    warehouse: Warehouse,
) -> None:
    """The process lives, and loses none."""
    process = warehouse.start()
    good = event("allocated", 1, orderid="o1", batchref="b1")
    bad: list[tuple[Any, dict[str, Any]]] = [
        (b"\xff\xfe", {}),
        (b"{", {}),
        (b"[]", {}),
        (pickle.dumps(good), {"content_type": "application/x-python-serialize"}),
        (good | {"sequence": 0}, {}),
        (good | {"sequence": True}, {}),
        ({key: value for key, value in good.items() if key != "subject"}, {}),
        (good | {"type": "allocation.allocated.v2"}, {}),
        (good | {"data": good["data"] | {"qty": "3"}}, {}),
        (good, {"headers": {"compression": "application/x-gzip"}}),
    ]

    for body, options in bad:
        warehouse.tell(body, **options)
    warehouse.tell(good)

    eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the good event's pick")
    letters: list[Any] = []

    def all_dead() -> bool:
        letters.extend(warehouse.dead())
        return len(letters) == len(bad)

    eventually(all_dead, what="every bad message in the dead-letter queue")
    assert {letter.headers["x-reason"] for letter in letters} == {"unreadable"}
    assert all(letter.headers["x-error"] for letter in letters)
    assert process.running


def test_events_that_do_not_concern_it_keep_the_count(warehouse: Warehouse) -> None:
    """Their sequences are no gaps."""
    warehouse.start()

    warehouse.tell(
        event("batch_created", 1),
        event("out_of_stock", 2) | {"type": "allocation.something_new.v1"},
        event("allocated", 3, orderid="o1", batchref="b1"),
    )

    eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the pick")


def test_a_kill_in_the_middle_of_the_work_loses_and_doubles_nothing(warehouse: Warehouse) -> None:
    """What was not acknowledged comes again; what was done is known."""
    events = life(400)
    process = warehouse.start()
    warehouse.tell(*events)
    eventually(lambda: len(warehouse.picks()) > 50, what="the warehouse at work")

    process.kill()
    warehouse.start()

    eventually(lambda: warehouse.picks() == expected(events), within=30, what="every pick")
    assert warehouse.dead() == []


def test_two_processes_share_the_queue_and_agree(warehouse: Warehouse) -> None:
    """Each event's turn is kept over both."""
    events = life(200)
    warehouse.start()
    warehouse.start()

    warehouse.tell(*events)

    eventually(lambda: warehouse.picks() == expected(events), within=30, what="every pick")


def test_an_effect_that_keeps_failing_is_dead_lettered_and_harms_no_other(
    warehouse: Warehouse,
) -> None:
    """After five tries, with the error and its traceback."""
    warehouse.start()
    too_long = "o" * 300  # more than the column takes, and than the contract allows

    warehouse.tell(
        event("allocated", 1, sku="CHAIR", orderid=too_long, batchref="b1"),
        event("allocated", 1, orderid="o1", batchref="b1"),
    )

    eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the other sku's pick")
    [letter] = eventually(warehouse.dead, what="the dead letter")
    assert (letter.headers["x-reason"], letter.headers["x-attempts"]) == ("failed", 5)
    assert "Traceback" in letter.headers["x-traceback"]
    assert letter.headers["x-first"] < letter.headers["x-last"]


def test_a_lost_broker_is_found_again(
    warehouse: Warehouse, private_rabbitmq: PrivateRabbitMQ
) -> None:
    """Without a restart by hand."""
    process = warehouse.start()
    private_rabbitmq.wait_for_disk(QUEUE)

    private_rabbitmq.kill()
    process.wait_for_log("is not being consumed")
    private_rabbitmq.start()
    eventually(lambda: process.logs().count("ready: consuming") == 2, within=20, what="ready again")
    warehouse.tell(event("allocated", 1, orderid="o1", batchref="b1"))

    eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the pick")


def test_a_missing_queue_is_waited_for_with_a_word_what_to_do(warehouse: Warehouse) -> None:
    """Nobody has to start things in order."""
    with Connection(warehouse.broker_url) as connection:
        connection.channel().queue_delete(QUEUE)

    process = warehouse.start(ready=False)
    process.wait_for_log("run `allocation topology`")
    with Connection(warehouse.broker_url) as connection:
        topology.declare(connection)

    process.wait_for_log("ready: consuming")


def test_it_stops_when_it_is_asked_to(warehouse: Warehouse) -> None:
    """SIGTERM ends it cleanly."""
    process = warehouse.start()

    assert process.stop(by=signal.SIGTERM) == 0


def test_the_pick_list_is_shown_to_people_and_programs(warehouse: Warehouse) -> None:
    """As a table, as JSON, of one order, and when it is empty."""

    def show(*arguments: str) -> str:
        command = [sys.executable, "-m", "workers.warehouse", "picks", *arguments]
        shown = warehouse.start_process(command, name="picks", env=warehouse.environment)
        assert shown.wait() == 0
        return shown.logs()

    assert "The pick list is empty" in show()
    warehouse.start()
    warehouse.tell(
        event("allocated", 1, orderid="o1", batchref="b1"),
        event("allocated", 2, orderid="o2", batchref="b2"),
    )
    eventually(lambda: len(warehouse.picks()) == 2, what="both picks")

    assert [line.split()[0] for line in show().splitlines()] == ["orderid", "o1", "o2"]
    assert [pick["orderid"] for pick in json.loads(show("--json", "--orderid", "o2"))] == ["o2"]
