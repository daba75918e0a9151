"""Batches that come late, early, or damaged."""

from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import Worker

WAIT = {"Prefer": "wait=5"}
SHIPMENT = {"batchref": "shipment", "sku": "LAMP", "qty": 10, "eta": "2030-01-01"}


@pytest.fixture
def stocked(client: FlaskClient, worker: Worker) -> FlaskClient:
    """A shipment that promises four of its ten pieces to order-1."""
    client.post("/v1/batches", json=SHIPMENT, headers=WAIT)
    line = {"orderid": "order-1", "sku": "LAMP", "qty": 4}
    client.post("/v1/allocations", json=line, headers=WAIT)
    return client


def test_a_late_shipment_is_late_for_its_orders_too(stocked: FlaskClient) -> None:
    """The batch and the order's line show the new day."""
    response = stocked.put("/v1/batches/shipment/eta", json={"eta": "2030-02-01"}, headers=WAIT)

    assert (response.status_code, response.json) == (
        200,
        {"batchref": "shipment", "eta": "2030-02-01", "status": "changed"},
    )
    order: Any = stocked.get("/v1/allocations/order-1").json
    assert order["lines"][0]["eta"] == "2030-02-01"


def test_a_shipment_without_a_day_has_arrived(stocked: FlaskClient) -> None:
    """An empty object says so as well as null."""
    response = stocked.put("/v1/batches/shipment/eta", json={}, headers=WAIT)

    assert response.json == {"batchref": "shipment", "eta": None, "status": "changed"}


def test_damaged_pieces_are_written_off(stocked: FlaskClient) -> None:
    """What is left still serves the order."""
    gone = {"qty": 6, "reason": "water damage"}

    response = stocked.post("/v1/batches/shipment/write-offs", json=gone, headers=WAIT)

    assert (response.status_code, response.json) == (
        200,
        {"batchref": "shipment", **gone, "status": "written off", "left": 4},
    )
    batch: Any = stocked.get("/v1/batches/shipment").json
    assert (batch["qty"], batch["allocated"]) == (4, 4)


def test_more_than_a_batch_has_cannot_be_written_off(stocked: FlaskClient) -> None:
    """409, and it says how many there are."""
    gone = {"qty": 11, "reason": "stolen"}

    response = stocked.post("/v1/batches/shipment/write-offs", json=gone, headers=WAIT)

    assert response.status_code == 409
    assert response.json is not None
    assert (response.json["title"], response.json["known_qty"]) == ("quantity too large", 10)


@pytest.mark.parametrize(
    ("method", "path", "body", "field"),
    [
        ("PUT", "eta", {"eta": "tomorrow"}, "eta"),
        ("PUT", "eta", {"eta": "2030-01-01", "batchref": "other"}, "batchref"),
        ("POST", "write-offs", {"qty": 0, "reason": "stolen"}, "qty"),
        ("POST", "write-offs", {"qty": 1}, "reason"),
        ("POST", "write-offs", {"qty": 1, "reason": "a\nb"}, "reason"),
    ],
)
def test_a_wrong_field_is_named(
    client: FlaskClient, method: str, path: str, body: dict[str, object], field: str
) -> None:
    """Before anything is accepted."""
    response = client.open(f"/v1/batches/shipment/{path}", method=method, json=body)

    assert response.status_code == 422
    assert response.json is not None
    assert [error["field"] for error in response.json["errors"]] == [field]
