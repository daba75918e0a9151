"""`allocation replay`: a subscriber that is new, or was rebuilt, catches up from the event log."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from kombu import Connection, Queue
from sqlalchemy import Engine, delete, func, select, text

from allocation.adapters.sql.tables import outbox
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import (
    Allocate,
    ChangeBatchQuantity,
    Command,
    CreateBatch,
    Deallocate,
)
from allocation.messaging import database
from allocation.service_layer.execution import execute
from allocation.service_layer.unit_of_work import Message
from tests.integration.conftest import Service
from tests.servers.databases import Databases
from tests.servers.processes import Process
from tests.waiting import eventually
from workers.warehouse import pick_list, tables

pytestmark = pytest.mark.long

QUEUE = "warehouse.events"
Picks = list[tuple[str, str, str, int | None]]


@dataclass
class Warehouse:
    """One warehouse on a database of its own."""

    service: Service
    url: str
    engine: Engine

    def start(self, name: str, **changes: str) -> Process:
        environment = self.service.environment | {"WAREHOUSE_DATABASE_URL": self.url} | changes
        command = [sys.executable, "-m", "workers.warehouse"]
        process = self.service.start_process(command, name=name, env=environment)
        process.wait_for_log("ready: consuming")
        return process

    def picks(self) -> Picks:
        """What any warehouse that heard the same should show."""
        return sorted(
            (pick["orderid"], pick["batchref"], pick["status"], pick["closed_sequence"])
            for pick in pick_list.listed(self.engine)
        )

    def taken(self) -> int:
        """The events that were applied or ignored, those before the log's first ones included."""
        with self.engine.connect() as connection:
            taken = select(func.sum(tables.progress.c.next_sequence - 1))
            return int(connection.scalar(taken) or 0)

    def received(self) -> int:
        """The events that are not ignored."""
        with self.engine.connect() as connection:
            return connection.scalar(select(func.count()).select_from(tables.received)) or 0


@pytest.fixture
def warehouse(service: Service, postgres: Databases) -> Iterator[Callable[[], Warehouse]]:
    """Makes warehouses with empty databases."""
    made: list[Warehouse] = []

    def make() -> Warehouse:
        url = postgres.create_database()
        made.append(Warehouse(service, url, database.engine(url)))
        return made[-1]

    yield make
    for each in made:
        each.engine.dispose()
        postgres.drop_database(each.url)


class Shop:
    """Decides commands, each with an id of its own."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._number = 0

    def do(self, command: Command) -> None:
        self._number += 1
        number = UUID(int=self._number)
        execute(
            Message(number, command, correlation_id=number), SqlUnitOfWork(self._service.engine)
        )

    def open(self, skus: int = 4) -> None:
        for number in range(skus):
            self.do(CreateBatch(f"early-{number}", f"sku-{number}", 60))
            self.do(CreateBatch(f"late-{number}", f"sku-{number}", 10_000))

    def sell(self, orders: range, skus: int = 4) -> None:
        """Orders, every fifth of which is given up again, and a batch that shrinks now and then."""
        for number in orders:
            sku = f"sku-{number % skus}"
            self.do(Allocate(f"order-{number}", sku, 1))
            if number % 5 == 0:
                self.do(Deallocate(f"order-{number}", sku))
            if number % 50 == 7:
                self.do(ChangeBatchQuantity(f"early-{number % skus}", 60 - number // 10))


@pytest.fixture
def shop(service: Service) -> Shop:
    """The one that sells."""
    return Shop(service)


def replay(service: Service, *arguments: str) -> tuple[int | None, str]:
    """Run `allocation replay`: its exit status, and what it said."""
    command = [sys.executable, "-m", "allocation", "replay", *arguments]
    process = service.start_process(command, name="replay", env=service.environment)
    return process.wait(60), process.logs()


def events(service: Service) -> int:
    with service.engine.connect() as connection:
        return connection.scalar(select(func.count()).where(outbox.c.kind == "event")) or 0


def relayed(service: Service) -> bool:
    with service.engine.connect() as connection:
        return not connection.scalar(select(func.count()).where(outbox.c.sent_at.is_(None)))


def in_queue(service: Service, name: str = QUEUE) -> list[Any]:
    """Everything that waits in the queue, in order; it leaves the queue."""
    with Connection(service.broker_url) as connection:
        queue = Queue(name)(connection.channel())
        found = []
        while message := queue.get(no_ack=True, accept=None):
            found.append(message)
        return found


def sent_before(service: Service) -> None:
    """Have everything sent, and taken from the queue by somebody."""
    relay = service.relay()
    eventually(lambda: relayed(service), within=30, what="everything sent")
    relay.stop()
    in_queue(service)


def test_a_warehouse_rebuilt_while_events_flow_ends_like_one_that_was_always_there(
    service: Service, shop: Shop, warehouse: Callable[[], Warehouse]
) -> None:
    """Empty database, replay, and new events all the while."""
    service.relay()
    always_there, rebuilt = warehouse(), warehouse()
    first = always_there.start("always-there")
    shop.open()
    shop.sell(range(150))
    eventually(
        lambda: always_there.taken() == events(service), within=30, what="the first warehouse"
    )
    first.stop()
    shop.sell(range(150, 170))
    eventually(lambda: relayed(service), what="new events in the queue, ahead of the old ones")

    command = [sys.executable, "-m", "allocation", "replay", "--queue", QUEUE]
    replaying = service.start_process(command, name="replay", env=service.environment)
    shop.sell(range(170, 200))
    assert replaying.wait(60) == 0
    # To take them all takes it longer than its patience with the new ones' missing predecessors.
    second = rebuilt.start("rebuilt", SUBSCRIBER_PATIENCE="0.5")
    shop.sell(range(200, 220))
    eventually(lambda: rebuilt.taken() == events(service), within=60, what="all the events")
    second.stop()
    # The first one never heard what the second one took from their queue.
    always_there.start("again")
    assert replay(service, "--queue", QUEUE)[0] == 0
    eventually(lambda: always_there.taken() == events(service), within=60, what="the repeats taken")

    assert rebuilt.picks() == always_there.picks()
    assert len(rebuilt.picks()) > 220
    assert "late=True" not in second.logs()


def test_events_go_to_that_queue_alone_in_their_order_and_as_they_were(
    service: Service, shop: Shop
) -> None:
    """The first of each sku is marked."""
    shop.open(skus=2)
    shop.sell(range(20), skus=2)
    sent_before(service)
    in_queue(service, "notification.events")

    status, said = replay(service, "--queue", QUEUE)

    again = in_queue(service)
    assert (status, said.splitlines()[-1]) == (
        0,
        f"{events(service)} events were sent again to {QUEUE}.",
    )
    with service.engine.connect() as connection:
        kept = select(outbox.c.body).where(outbox.c.kind == "event").order_by(outbox.c.position)
        assert [json.loads(message.body) for message in again] == list(connection.scalars(kept))
    first = [message for message in again if message.headers["x-replay"] == "first"]
    assert [json.loads(message.body)["sequence"] for message in first] == [1, 1]
    assert service.depth("notification.events") == 0


def test_one_sku_can_be_replayed_and_from_a_time_on(service: Service, shop: Shop) -> None:
    """From the first event of that time on, without a hole."""
    shop.open(skus=2)
    shop.sell(range(10), skus=2)
    sent_before(service)
    with service.engine.begin() as connection:
        connection.execute(
            text(
                "UPDATE outbox SET created_at = '2020-01-01'"
                " WHERE sku = 'sku-1' AND sequence IN (1, 2, 3, 5)"
            )
        )

    status, said = replay(
        service, "--queue", QUEUE, "--sku", "sku-1", "--since", "2021-01-01", "--json"
    )

    found = [
        (message.headers["x-replay"], json.loads(message.body)) for message in in_queue(service)
    ]
    told = [(mark, event["subject"], event["sequence"]) for mark, event in found]
    assert (status, json.loads(said)) == (0, {"queue": QUEUE, "sent": len(told)})
    assert told[:3] == [("first", "sku-1", 4), ("next", "sku-1", 5), ("next", "sku-1", 6)]


def test_a_new_subscriber_begins_where_the_log_begins(
    service: Service, shop: Shop, warehouse: Callable[[], Warehouse]
) -> None:
    """It does not wait for what was pruned, also where a newer event came first."""
    shop.open(skus=1)
    shop.sell(range(10), skus=1)
    sent_before(service)
    with service.engine.begin() as connection:
        connection.execute(delete(outbox).where(outbox.c.sequence < 6))
    service.relay()
    shop.do(Allocate("order-new", "sku-0", 1))
    new = warehouse()
    new.start("new")
    eventually(lambda: new.received() == 1, what="the live event, which has to wait")

    assert replay(service, "--queue", QUEUE)[0] == 0

    eventually(
        lambda: new.picks()[-1:] == [("order-new", "early-0", "open", None)], what="the pick"
    )
    assert new.received() == events(service)


@pytest.mark.parametrize(
    ("arguments", "ends_with", "sentence"),
    [
        (["--queue", "nobody.events"], 1, "there is no queue nobody.events"),
        (["--queue", "allocation.commands"], 2, "allocation.commands is not a queue for events"),
        (
            ["--queue", "warehouse.events.dead"],
            2,
            "warehouse.events.dead is not a queue for events",
        ),
        (["--queue", QUEUE, "--since", "yesterday"], 2, "--since yesterday is not a time"),
        (["--queue", QUEUE, "--sku", "SOFA"], 1, "no product has the sku SOFA"),
    ],
)
def test_what_cannot_be_replayed_is_said_in_one_sentence(
    service: Service, arguments: list[str], ends_with: int, sentence: str
) -> None:
    """And nothing is sent."""
    status, said = replay(service, *arguments)

    assert status == ends_with
    assert sentence in said
    assert len(said.splitlines()) == 1


def test_a_queue_that_is_full_ends_the_replay_with_what_to_do(service: Service, shop: Shop) -> None:
    """It refuses; nothing is dropped in silence."""
    shop.open(skus=1)
    shop.sell(range(30), skus=1)
    with Connection(service.broker_url) as connection:
        Queue(
            "narrow.events",
            durable=True,
            # A classic one: a quorum queue takes some more before it refuses.
            queue_arguments={"x-max-length": 5, "x-overflow": "reject-publish"},
        )(connection.channel()).declare()

    status, said = replay(service, "--queue", "narrow.events")

    assert status == 1
    assert f"of {events(service)} events and refused the next: is it full?" in said
