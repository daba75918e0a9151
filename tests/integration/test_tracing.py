"""Spans on real servers: one trace through every hop, and no harm from a collector that is away."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import Service

pytestmark = pytest.mark.long

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans(service: Service, empty_database_url: str) -> list[Any]:
    """Name, parent's name and attributes of the trace of one order line, as they began."""
    process = service.start_process(
        [sys.executable, "-m", "tests.integration.tracing_program", CALLER],
        name="all",
        cwd=Path(__file__).parents[2],
        env=service.environment | {"WAREHOUSE_DATABASE_URL": empty_database_url},
    )
    assert process.wait(60) == 0, process.logs()
    return [json.loads(line) for line in process.logs().splitlines() if line.startswith('["')]


def test_one_trace_holds_every_hop_of_an_order_line(spans: list[Any]) -> None:
    """Each is the child of the one before, across both outboxes and every queue."""
    assert [(name, parent) for name, parent, _ in spans] == [
        ("POST /v1/allocations", "the caller"),
        ("publish allocation.allocate", "POST /v1/allocations"),
        ("process allocation.allocate", "publish allocation.allocate"),
        ("publish allocation.allocated.v1", "process allocation.allocate"),
        ("process allocation.allocated.v1", "publish allocation.allocated.v1"),
        ("dispatch", "the caller"),
        ("publish warehouse.dispatched.v1", "dispatch"),
        ("process warehouse.dispatched.v1", "publish warehouse.dispatched.v1"),
        ("publish allocation.dispatch", "process warehouse.dispatched.v1"),
        ("process allocation.dispatch", "publish allocation.dispatch"),
        ("publish allocation.dispatched.v1", "process allocation.dispatch"),
        ("process allocation.dispatched.v1", "publish allocation.dispatched.v1"),
    ]
