"""The warehouse as a real process on RabbitMQ: invalid messages, kills, outages, clean stops."""

import pickle
import signal
from typing import Any
from uuid import uuid4

import pytest
from kombu import Connection

from allocation.adapters.rabbitmq import topology
from tests.servers.postgres import PrivatePostgres
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.waiting import eventually
from tests.workers.conftest import QUEUE, Warehouse, as_bytes, event, expected, life

pytestmark = pytest.mark.long


def test_bad_messages_go_to_the_dead_letters_with_the_reason_and_the_good_ones_pass(
    warehouse: Warehouse,
) -> None:
    process = warehouse.start()
    good = event("allocated", 1, eta=None, orderid="o1", batchref="b1")
    bad: list[tuple[Any, dict[str, Any], str]] = [
        (b"\xff\xfe", {}, "not JSON"),
        (b"{", {}, "not JSON"),
        (b"", {"content_encoding": "binary"}, "not JSON"),
        (b"[]", {}, "not a JSON object"),
        (good, {"content_type": "text/plain"}, "content type"),
        (pickle.dumps(good), {"content_type": "application/x-python-serialize"}, "content type"),
        (good | {"sequence": 0}, {}, "field sequence"),
        (good | {"sequence": "1"}, {}, "field sequence"),
        (good | {"sequence": True}, {}, "field sequence"),
        ({key: good[key] for key in good if key != "subject"}, {}, "field subject"),
        (good | {"type": "allocation.allocated.v2"}, {}, "version"),
        (good | {"data": good["data"] | {"qty": "3"}}, {}, "data.qty"),
        (good | {"data": good["data"] | {"orderid": "o" * 256}}, {}, "data.orderid"),
        (good, {"headers": {"compression": "application/x-gzip"}}, "can't be decoded"),
        (good, {"headers": {"compression": "application/x-unknown"}}, "can't be decoded"),
    ]

    for body, options, _ in bad:
        warehouse.tell(body, **options)
    warehouse.tell(good)

    eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the good event's pick")
    letters: list[Any] = []

    def all_dead() -> bool:
        letters.extend(warehouse.dead())
        return len(letters) >= len(bad)

    eventually(all_dead, what="every bad message in the dead-letter queue")
    for letter, (body, _, word) in zip(letters, bad, strict=True):
        reason = "unknown version" if word == "version" else "unreadable"
        assert letter.headers["x-reason"] == reason
        assert word in letter.headers["x-error"]
        assert as_bytes(letter.body) == as_bytes(body)
    assert process.running


def test_a_crowd_of_bad_messages_is_set_aside_as_well(warehouse: Warehouse) -> None:
    """More at once than a program may nest calls."""
    process = warehouse.start()

    warehouse.tell(*([b"{"] * 400))

    letters: list[Any] = []

    def all_dead() -> bool:
        letters.extend(warehouse.dead())
        return len(letters) == 400

    eventually(all_dead, what="every bad message in the dead letters")
    assert process.running


def test_events_that_do_not_concern_it_keep_the_count(warehouse: Warehouse) -> None:
    warehouse.start()

    warehouse.tell(
        event("batch_created", 1),
        event("out_of_stock", 2) | {"type": "allocation.something_new.v1"},
        event("allocated", 3, eta=None, orderid="o1", batchref="b1"),
    )

    eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the pick")


def test_a_kill_in_the_middle_of_the_work_loses_and_doubles_nothing(warehouse: Warehouse) -> None:
    """What was not acknowledged comes again; what was done is known."""
    events = life(600)
    process = warehouse.start()
    warehouse.tell(*events)
    eventually(lambda: len(warehouse.picks()) > 50, what="the warehouse at work")

    process.kill()
    warehouse.start()

    eventually(lambda: warehouse.picks() == expected(events), within=30, what="every pick")
    assert warehouse.dead() == []


def test_two_processes_share_the_queue_and_agree(warehouse: Warehouse) -> None:
    """Each event's turn is kept over both."""
    events = life(120)
    warehouse.start()
    warehouse.start()

    warehouse.tell(*events)

    eventually(lambda: warehouse.picks() == expected(events), within=30, what="every pick")


def test_an_effect_that_keeps_failing_is_dead_lettered_and_harms_no_other(
    warehouse: Warehouse,
) -> None:
    """After five tries, with the error and its traceback."""
    warehouse.start()
    first = event("allocated", 1, eta=None, orderid="o1", batchref="b1")
    clash = event("allocated", 1, eta=None, orderid="o2") | {
        "id": str(uuid4())
    }  # one number told twice

    warehouse.tell(first, clash, event("allocated", 2, eta=None, orderid="o3", batchref="b1"))

    eventually(
        lambda: warehouse.picks() == [("o1", "b1", "open"), ("o3", "b1", "open")],
        what="the others' picks",
    )
    [letter] = eventually(warehouse.dead, what="the dead letter")
    assert (letter.headers["x-reason"], letter.headers["x-attempts"]) == ("failed", 5)
    assert "IntegrityError" in letter.headers["x-error"]
    assert "Traceback" in letter.headers["x-traceback"]
    assert letter.headers["x-first"] < letter.headers["x-last"]
    assert as_bytes(letter.body) == as_bytes(clash)


def test_a_lost_broker_is_found_again(
    warehouse: Warehouse, private_rabbitmq: PrivateRabbitMQ
) -> None:
    process = warehouse.start()

    private_rabbitmq.kill()
    process.wait_for_log("is not being consumed")
    private_rabbitmq.start()
    eventually(lambda: process.logs().count("ready: consuming") == 2, within=20, what="ready again")
    warehouse.tell(event("allocated", 1, eta=None, orderid="o1", batchref="b1"))

    eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the pick")


def test_a_lost_database_is_found_again_and_no_event_is_given_up(
    warehouse: Warehouse, private_postgres: PrivatePostgres
) -> None:
    process = warehouse.start()

    private_postgres.kill()
    warehouse.tell(event("allocated", 1, eta=None, orderid="o1", batchref="b1"))
    process.wait_for_log("is not being consumed")
    private_postgres.start()

    eventually(lambda: process.logs().count("ready: consuming") > 1, within=20, what="ready again")
    warehouse.engine.dispose()
    eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the pick")
    assert warehouse.dead() == []


def test_a_missing_queue_is_waited_for_with_a_word_what_to_do(warehouse: Warehouse) -> None:
    with Connection(warehouse.broker_url) as connection:
        connection.channel().queue_delete(QUEUE)

    process = warehouse.start(ready=False)
    process.wait_for_log("run `allocation topology`")
    with Connection(warehouse.broker_url) as connection:
        topology.declare(connection)

    process.wait_for_log("ready: consuming")


def test_it_stops_when_it_is_asked_to_in_the_middle_of_its_work(warehouse: Warehouse) -> None:
    """SIGTERM ends it cleanly, and what it did not get to is the next one's."""
    events = life(600)
    process = warehouse.start()
    warehouse.tell(*events)
    eventually(lambda: len(warehouse.picks()) > 20, what="the warehouse at work")

    assert process.stop(by=signal.SIGTERM) == 0

    warehouse.start()
    eventually(lambda: warehouse.picks() == expected(events), within=30, what="every pick")
