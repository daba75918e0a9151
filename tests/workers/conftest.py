"""Events of the contract, and the inboxes of both subscribers on both databases."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest
from kombu import Connection, Queue
from sqlalchemy import Engine

from allocation.adapters.rabbitmq import topology
from allocation.contract import registry
from allocation.messaging import database
from allocation.messaging.cloudevents import Envelope, from_json
from tests.servers.processes import Process
from workers.warehouse import pick_list
from workers.warehouse.running import MIGRATIONS

QUEUE = "warehouse.events"
EVENTS = sorted(registry.EVENTS)


def event(kind: str, sequence: int, cause: str = "allocate", **data: object) -> dict[str, Any]:
    """An event of a kind such as `allocated`, as it comes over the wire."""
    name = f"allocation.{kind}.v1"
    body = registry.example(name)
    merged = body["data"] | {"sku": "LAMP"} | data
    return body | {
        "id": str(uuid5(NAMESPACE_OID, f"{merged['sku']} {sequence}")),
        "subject": merged["sku"],
        "sequence": sequence,
        "causationtype": f"allocation.{cause}",
        "data": merged,
    }


def envelope(kind: str, sequence: int, cause: str = "allocate", **data: object) -> Envelope:
    """The same, as a subscriber reads it."""
    return from_json(event(kind, sequence, cause, **data))


def as_bytes(body: Any) -> bytes:
    """A body as it is on the wire; the client library decodes some to text."""
    if isinstance(body, str):
        return body.encode()
    return body if isinstance(body, bytes) else json.dumps(body).encode()


def publish(broker_url: str, *bodies: Any, **properties: Any) -> None:
    """Tell every subscriber, in events or raw bytes; on the broker's disk when it returns."""
    properties = {
        "content_type": "application/cloudevents+json",
        "content_encoding": "utf-8",
    } | properties
    with Connection(broker_url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer()
        for body in bodies:
            producer.publish(
                as_bytes(body), exchange="allocation.events", routing_key="", **properties
            )


@pytest.fixture(params=["sqlite", "postgresql"])
def worker_engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    """An empty database of a subscriber's own, of each kind."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path}/worker.db"
    else:
        url = request.getfixturevalue("empty_database_url")
    engine = database.engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_engine(tmp_path: Path) -> Iterator[Engine]:
    """The warehouse's tables in a file."""
    made = database.engine(f"sqlite:///{tmp_path}/warehouse.db")
    MIGRATIONS.upgrade(made)
    yield made
    made.dispose()


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

    def tell(self, *bodies: Any, **properties: Any) -> None:
        """Publish events, or raw bytes."""
        publish(self.broker_url, *bodies, **properties)

    def picks(self) -> list[tuple[str, str, str]]:
        return [
            (pick["orderid"], pick["batchref"], pick["status"])
            for pick in pick_list.listed(self.engine)
        ]

    def dead(self) -> list[Any]:
        """The dead letters, in order; they leave the queue."""
        with Connection(self.broker_url) as connection:
            queue = Queue(f"{QUEUE}.dead")(connection.channel())
            letters = []
            while letter := queue.get(no_ack=True, accept=None):
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
        events.append(event("allocated", len(events) + 1, orderid=orderid, batchref="b1", eta=None))
        if number % 3 == 0:
            events.append(event("deallocated", len(events) + 1, orderid=orderid, batchref="b1"))
    return events


def expected(events: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    gone = {e["data"]["orderid"] for e in events if e["type"] == "allocation.deallocated.v1"}
    orders = [e["data"]["orderid"] for e in events if e["type"] == "allocation.allocated.v1"]
    return [(o, "b1", "cancelled" if o in gone else "open") for o in orders]
