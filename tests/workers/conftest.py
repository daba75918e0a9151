"""Events of the contract, and the inboxes of both subscribers on both databases."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest
from kombu import Connection
from sqlalchemy import Engine

from allocation.adapters import contract
from workers import database
from workers.envelope import Envelope, from_json

EVENTS = sorted(contract.EVENT_TYPES.values())


def event(kind: str, sequence: int, cause: str = "allocate", **data: object) -> dict[str, Any]:
    """An event of a kind such as `allocated`, as it comes over the wire."""
    name = f"allocation.{kind}.v1"
    body = contract.example(name)
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
