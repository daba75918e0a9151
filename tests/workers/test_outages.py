"""The warehouse as a real process while its database or its broker fails."""

import json
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from kombu import Connection, Queue

from allocation.adapters.rabbitmq import topology
from tests.servers.postgres import PrivatePostgres
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.waiting import eventually
from tests.workers.conftest import QUEUE, Warehouse, event, expected, life

pytestmark = pytest.mark.long


def allow_deliveries(warehouse: Warehouse, limit: int) -> None:
    """Declare the queue anew, with so few deliveries until a message counts as poison."""
    with Connection(warehouse.broker_url) as connection:
        channel = connection.channel()
        channel.queue_delete(QUEUE)
        Queue(
            QUEUE,
            exchange=topology.events_exchange(),
            durable=True,
            queue_arguments={
                "x-queue-type": "quorum",
                "x-delivery-limit": limit,
                "x-dead-letter-exchange": "",
                "x-dead-letter-routing-key": f"{QUEUE}.dead",
            },
        )(channel).declare()


def test_a_long_outage_of_the_database_costs_no_event(
    warehouse: Warehouse, private_postgres: PrivatePostgres
) -> None:
    """However often it is tried: the broker must not take the events for poison."""
    allow_deliveries(warehouse, 2)
    process = warehouse.start()
    events = life(20)

    private_postgres.stop()
    warehouse.tell(*events)
    eventually(
        lambda: process.logs().count("is not being consumed") >= 5, within=30, what="five tries"
    )
    private_postgres.start()
    warehouse.engine.dispose()

    eventually(lambda: warehouse.picks() == expected(events), within=20, what="every pick")
    assert warehouse.dead() == []


def test_a_database_that_is_away_at_the_start_is_waited_for(
    warehouse: Warehouse, private_postgres: PrivatePostgres
) -> None:
    """Nobody has to start things in order, and a stop is heard meanwhile."""
    private_postgres.stop()
    impatient = warehouse.start(ready=False)
    process = warehouse.start(ready=False)
    impatient.wait_for_log("the database can't be reached")
    process.wait_for_log("the database can't be reached")

    assert impatient.stop() == 0
    private_postgres.start()

    process.wait_for_log("ready: consuming")


def test_a_missing_dead_letter_queue_holds_up_no_good_event(warehouse: Warehouse) -> None:
    """The bad message is rejected, for the broker to keep until the queue is there."""
    with Connection(warehouse.broker_url) as connection:
        connection.channel().queue_delete(f"{QUEUE}.dead")
    process = warehouse.start()

    warehouse.tell(b"{")
    warehouse.tell(event("allocated", 1, eta=None, orderid="o1", batchref="b1"))
    eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the pick")

    assert (
        process.logs().count(
            "does not accept messages; if it is missing, run `allocation topology`"
        )
        == 1
    )
    assert process.logs().count("ready: consuming") == 1


def test_it_needs_no_right_to_configure_the_broker(
    warehouse: Warehouse, private_rabbitmq: PrivateRabbitMQ
) -> None:
    """To read its queue and to write dead letters is enough."""
    parts = urlsplit(warehouse.broker_url)
    private_rabbitmq.ctl("add_user", "reader", "secret")
    try:
        private_rabbitmq.ctl(
            *("set_permissions", "-p", parts.path.lstrip("/"), "reader"),
            *("^$", r"^warehouse\.events\.dead$", r"^warehouse\.events$"),
        )
        warehouse.environment["ALLOCATION_BROKER_URL"] = (
            f"amqp://reader:secret@{parts.hostname}:{parts.port}{parts.path}"
        )
        process = warehouse.start()

        warehouse.tell(b"{", event("allocated", 1, eta=None, orderid="o1", batchref="b1"))

        eventually(lambda: warehouse.picks() == [("o1", "b1", "open")], what="the pick")
        [letter] = eventually(warehouse.dead, what="the dead letter")
        assert letter.headers["x-reason"] == "unreadable"
        assert "secret" not in process.logs()
    finally:
        private_rabbitmq.ctl("delete_user", "reader")


def sequences(letters: list[Any]) -> list[tuple[str, int]]:
    return [(letter.headers["x-reason"], json.loads(letter.body)["sequence"]) for letter in letters]


def told_twice(sequence: int) -> list[dict[str, Any]]:
    """Two events of one number: the second to be applied fails, whichever it is."""
    events = [
        event("allocated", sequence, eta=None, orderid=orderid, batchref="b1")
        for orderid in ("o2", "o2b")
    ]
    return [body | {"id": str(uuid4())} for body in events]


def orders(warehouse: Warehouse) -> list[str]:
    return [orderid.rstrip("b") for orderid, _, _ in warehouse.picks()]


def test_an_event_that_waited_and_fails_then_takes_no_other_along(warehouse: Warehouse) -> None:
    """Neither the one that it waited for nor those behind it."""
    warehouse.start()

    warehouse.tell(
        event("allocated", 3, eta=None, orderid="o3", batchref="b1"),
        *told_twice(2),
        event("allocated", 1, eta=None, orderid="o1", batchref="b1"),
    )

    eventually(
        lambda: orders(warehouse) == ["o1", "o2", "o3"], within=20, what="the good events' picks"
    )
    assert sequences(warehouse.dead()) == [("failed", 2)]


def test_an_event_that_fails_once_its_gap_is_given_up_stops_nothing(warehouse: Warehouse) -> None:
    """It is dead-lettered, and the process goes on consuming."""
    warehouse.environment["SUBSCRIBER_PATIENCE"] = "1"
    process = warehouse.start()

    warehouse.tell(*told_twice(2))

    letters = eventually(warehouse.dead, within=20, what="the dead letter")
    warehouse.tell(event("allocated", 3, eta=None, orderid="o3", batchref="b1"))
    eventually(lambda: orders(warehouse) == ["o2", "o3"], what="the picks")
    assert sequences(letters) == [("failed", 2)]
    assert process.logs().count("ready: consuming") == 1
