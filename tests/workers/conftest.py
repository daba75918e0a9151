"""Events of the contract, and the inboxes of both subscribers on both databases."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from uuid import NAMESPACE_OID, uuid5

import pytest
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
