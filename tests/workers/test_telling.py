"""What the warehouse dispatched is told to the broker: at least once, whatever is down or dies."""

import json
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from kombu import Connection, Exchange, Queue
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, func, select

from allocation.messaging.cloudevents import build
from allocation.messaging.connection import connect
from tests.faults.gates import Gate
from tests.servers.postgres import PrivatePostgres
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.waiting import eventually
from tests.workers.conftest import Warehouse, as_bytes, event
from workers.warehouse import tables
from workers.warehouse.dispatch_outbox import Relay, add
from workers.warehouse.dispatching import Wanted, dispatch
from workers.warehouse.running import MIGRATIONS
from workers.warehouse.settings import Settings

pytestmark = pytest.mark.long

NOW = datetime(2030, 1, 1, 12, tzinfo=UTC)
INBOUND = Exchange("allocation.inbound", type="topic", durable=True)
HEARD = Queue("heard", INBOUND, routing_key="#", durable=True)
WAITS = "events about dispatched lines can't be published"


def listen(connection: Connection) -> None:
    """Declare the exchange, and a queue that gets all of it."""
    with connection.channel() as channel:
        HEARD(channel).declare()


class Ear:
    """Takes what is in the queue."""

    def __init__(self) -> None:
        self.messages: list[Any] = []

    def listen(self, connection: Connection) -> list[Any]:
        """All messages so far."""
        with connection.channel() as channel:
            while message := HEARD(channel).get(no_ack=True, accept=None):
                self.messages.append(message)
        return self.messages

    def ids(self, broker_url: str) -> list[str]:
        """The events' ids, so far, in the order in which they came."""
        with Connection(broker_url) as connection:
            return [json.loads(message.body)["id"] for message in self.listen(connection)]


@pytest.fixture
def ear() -> Ear:
    """Has heard nothing yet."""
    return Ear()


@pytest.fixture
def telling(warehouse: Warehouse) -> Warehouse:
    """The warehouse with its tables; somebody listens to what it tells."""
    MIGRATIONS.upgrade(warehouse.engine)
    with Connection(warehouse.broker_url) as connection:
        listen(connection)
    return warehouse


def tell(engine: Engine, count: int) -> list[str]:
    """Put so many events into the outbox, in one transaction; their ids, in order."""
    events = [
        build(
            id=UUID(int=number),
            source="warehouse",
            type="warehouse.dispatched.v1",
            subject="LAMP",
            data={"orderid": f"o{number}"},
        )
        for number in range(1, count + 1)
    ]
    with engine.begin() as connection:
        add(connection, events, NOW)
    return [each["id"] for each in events]


def unsent(engine: Engine) -> int:
    query = select(func.count()).where(tables.outbox.c.sent_at.is_(None))
    with engine.connect() as connection:
        return connection.execute(query).scalar_one()


def all_sent(engine: Engine) -> bool:
    return unsent(engine) == 0


@pytest.fixture(params=["rabbitmq", "spool"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    """With each kind of broker."""
    if request.param == "spool":
        return Settings(allocation_state_dir=tmp_path)
    return Settings(
        allocation_state_dir=tmp_path, allocation_broker_url=request.getfixturevalue("broker_url")
    )


@pytest.fixture
def connection(settings: Settings) -> Iterator[Connection]:
    """To that broker, where somebody listens."""
    with connect(settings.allocation_broker_url, settings.broker_transport) as made:
        listen(made)
        yield made


@pytest.fixture
def relay(worker_engine: Engine, settings: Settings) -> Iterator[Relay]:
    """Running, on each kind of database and broker."""
    MIGRATIONS.upgrade(worker_engine)
    made = Relay(worker_engine, settings, CollectorRegistry())
    stop = threading.Event()
    running = threading.Thread(target=made.run, args=(stop, 0.01))
    running.start()
    yield made
    stop.set()
    running.join()


@pytest.mark.usefixtures("relay")
def test_the_broker_gets_the_event_of_the_outbox_once(
    worker_engine: Engine, connection: Connection, ear: Ear
) -> None:
    """As a persistent CloudEvent whose routing key is its type."""
    ids = tell(worker_engine, 2)

    eventually(lambda: all_sent(worker_engine), what="the marks")

    messages = ear.listen(connection)
    with worker_engine.connect() as reader:
        bodies = reader.scalars(select(tables.outbox.c.body).order_by(tables.outbox.c.event_id))
        assert [as_bytes(message.body) for message in messages] == [*map(as_bytes, bodies)]
    first = messages[0]
    assert [message.properties["message_id"] for message in messages] == ids
    assert (first.content_type, first.content_encoding) == ("application/cloudevents+json", "utf-8")
    assert first.properties["delivery_mode"] == 2
    assert first.delivery_info["exchange"] == "allocation.inbound"
    assert first.delivery_info["routing_key"] == "warehouse.dispatched.v1"


def test_what_a_person_dispatches_is_told_by_the_process(telling: Warehouse, ear: Ear) -> None:
    """From the event that opened the pick to the one that allocation hears."""
    process = telling.start()
    telling.tell(event("allocated", 1, eta=None, orderid="o1", batchref="b1", qty=3))
    eventually(telling.picks, what="the pick")

    dispatch(telling.engine, Wanted("o1"), NOW)

    eventually(lambda: all_sent(telling.engine), what="the mark")
    [told] = ear.ids(telling.broker_url)
    assert process.logs().count(f"event_id={told}") == 1
    assert json.loads(ear.messages[0].body)["data"] == {
        "orderid": "o1",
        "sku": "LAMP",
        "qty": 3,
        "batchref": "b1",
    }
    assert process.stop() == 0


def test_what_a_person_dispatches_in_a_trace_is_told_in_it(telling: Warehouse, ear: Ear) -> None:
    """It comes from the environment, and goes with the event."""
    traceparent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    telling.start()
    telling.tell(event("allocated", 1, eta=None, orderid="o1", batchref="b1", qty=3))
    eventually(telling.picks, what="the pick")

    command = [sys.executable, "-m", "workers.warehouse", "dispatch", "o1"]
    environment = telling.environment | {"TRACEPARENT": traceparent}
    assert telling.start_process(command, name="person", env=environment).wait(30) == 0

    eventually(lambda: all_sent(telling.engine), what="the mark")
    [_] = ear.ids(telling.broker_url)
    assert json.loads(ear.messages[0].body)["traceparent"] == traceparent


def test_who_dies_before_the_mark_has_it_sent_again_with_the_same_id(
    telling: Warehouse, ear: Ear
) -> None:
    """The broker has said yes; the other side knows the id."""
    [told] = tell(telling.engine, 1)
    gate = Gate(telling.engine, "outgoing", event="UPDATE")

    with gate.shut():
        process = telling.start()
        gate.wait_for_somebody()
        before = list(ear.ids(telling.broker_url))
        process.kill()
        gate.cut_off()
    telling.start()

    eventually(lambda: all_sent(telling.engine), what="the mark")
    assert (before, ear.ids(telling.broker_url)) == ([told], [told, told])


def test_two_processes_at_once_send_each_event_once(telling: Warehouse, ear: Ear) -> None:
    """What one has in hand is not the other's."""
    told = tell(telling.engine, 30)
    gate = Gate(telling.engine, "outgoing", event="UPDATE")

    with gate.shut():
        telling.start()
        telling.start()
        eventually(lambda: len(gate.waiting()) == 2, within=30, what="both before their marks")
        in_hand = list(ear.ids(telling.broker_url))

    eventually(lambda: all_sent(telling.engine), what="the marks")
    assert sorted(in_hand) == told[:2]
    assert sorted(ear.ids(telling.broker_url)) == told


def test_what_is_dispatched_while_the_broker_is_away_is_told_when_it_is_back(
    telling: Warehouse, private_rabbitmq: PrivateRabbitMQ, ear: Ear
) -> None:
    """The picks don't wait for it."""
    process = telling.start()
    private_rabbitmq.kill()
    told = tell(telling.engine, 3)
    process.wait_for_log(WAITS)
    waiting = unsent(telling.engine)

    private_rabbitmq.start()

    eventually(lambda: all_sent(telling.engine), within=20, what="the marks")
    assert (waiting, ear.ids(telling.broker_url)) == (3, told)


def test_a_broker_that_dies_in_the_middle_of_it_loses_nothing(
    telling: Warehouse, private_rabbitmq: PrivateRabbitMQ, ear: Ear
) -> None:
    """What it said yes to, and what it did not."""
    told = tell(telling.engine, 600)
    process = telling.start()
    eventually(lambda: unsent(telling.engine) < 550, what="the warehouse telling")

    private_rabbitmq.kill()
    process.wait_for_log(WAITS)
    private_rabbitmq.start()

    eventually(lambda: all_sent(telling.engine), within=30, what="the marks")
    # A queue that has just come back may say that it is empty before it gives all that it has.
    with suppress(AssertionError):  # which would not say what is missing
        eventually(lambda: sorted(set(ear.ids(telling.broker_url))) == told, within=30)
    assert sorted(set(ear.ids(telling.broker_url))) == told


def test_a_database_that_is_lost_is_found_again(
    telling: Warehouse, private_postgres: PrivatePostgres, ear: Ear
) -> None:
    """What was to be told is still there."""
    process = telling.start()
    private_postgres.kill()
    process.wait_for_log(WAITS)
    private_postgres.start()
    telling.engine.dispose()

    told = tell(telling.engine, 3)

    eventually(lambda: all_sent(telling.engine), within=20, what="the marks")
    assert ear.ids(telling.broker_url) == told


@pytest.mark.parametrize("missing", ["queue", "exchange"])
def test_what_no_queue_takes_waits_and_the_log_says_what_to_do(
    telling: Warehouse, ear: Ear, missing: str
) -> None:
    """It goes out once there is one."""
    with Connection(telling.broker_url) as connection, connection.channel() as channel:
        if missing == "exchange":
            INBOUND(channel).delete()
        else:
            HEARD(channel).delete()
            Queue("allocation.inbound")(channel).delete()
    process = telling.start()

    told = tell(telling.engine, 1)
    process.wait_for_log(f"{WAITS}; .* run `allocation topology`")
    waiting = unsent(telling.engine)
    with Connection(telling.broker_url) as connection:
        listen(connection)

    eventually(lambda: all_sent(telling.engine), within=20, what="the mark")
    assert (waiting, ear.ids(telling.broker_url)) == (1, told)
