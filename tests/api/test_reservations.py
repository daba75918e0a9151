"""Stock that is held, and lines that several batches serve, over HTTP."""

from io import BytesIO
from typing import Any

import pytest
from flask.testing import FlaskClient

from tests.api.conftest import Worker

WAIT = {"Prefer": "wait=5"}
BASKET = {"orderid": "order-1", "sku": "LAMP", "qty": 4, "ttl": 900, "customer": "customer-7"}


@pytest.fixture
def stocked(client: FlaskClient, worker: Worker) -> FlaskClient:
    """Five on the shelf, and five on a ship."""
    for batchref, eta in (("shelf", None), ("ship", "2030-01-31")):
        batch = {"batchref": batchref, "sku": "LAMP", "qty": 5, "eta": eta}
        assert client.post("/v1/batches", json=batch, headers=WAIT).status_code == 201
    return client


def lines(client: FlaskClient, orderid: str = "order-1") -> Any:
    response: Any = client.get(f"/v1/allocations/{orderid}").json
    return response["lines"]


def test_stock_is_held_and_confirmed(stocked: FlaskClient) -> None:
    """The line shows until when it is held, and then that it is allocated."""
    held: Any = stocked.post("/v1/reservations", json=BASKET, headers=WAIT)
    [before] = lines(stocked)
    confirmed = stocked.post("/v1/reservations/order-1/confirm", headers=WAIT)
    [after] = lines(stocked)

    assert held.status_code == 201
    asked = {name: value for name, value in BASKET.items() if name != "ttl"}
    assert held.json == asked | {
        "status": "reserved",
        "batchref": "shelf",
        "eta": None,
        "expires_at": before["expires_at"],
    }
    assert (before["status"], after["status"], after["expires_at"]) == (
        "reserved",
        "allocated",
        None,
    )
    assert confirmed.json == {
        "orderid": "order-1",
        "status": "confirmed",
        "lines": 1,
        "waiting": 0,
    }


def test_a_reservation_is_extended_once_and_given_up(stocked: FlaskClient) -> None:
    """The second time is a conflict."""
    stocked.post("/v1/reservations", json=BASKET, headers=WAIT)
    path = "/v1/reservations/order-1"

    answers = [
        stocked.post(f"{path}/extend", json={"ttl": 1800}, headers=WAIT),
        stocked.post(f"{path}/extend", json={"ttl": 1800}, headers=WAIT),
        stocked.delete(path, headers=WAIT),
        stocked.post(f"{path}/confirm", headers=WAIT),
    ]

    assert [answer.status_code for answer in answers] == [200, 409, 200, 409]
    titles = [answer.json["title"] for answer in answers if answer.json and "title" in answer.json]
    assert titles == ["extended already", "no reservation"]


def test_a_reservation_that_nothing_can_serve_waits(stocked: FlaskClient) -> None:
    """200, and it is held in the queue."""
    held = stocked.post("/v1/reservations", json=BASKET | {"qty": 40}, headers=WAIT)

    assert held.status_code == 200
    assert lines(stocked)[0]["status"] == "waiting"


def test_a_line_that_may_be_split_is_answered_in_parts(stocked: FlaskClient) -> None:
    """One for each batch; what waits is one more."""
    line = {"orderid": "order-1", "sku": "LAMP", "qty": 12, "split": True}

    answer = stocked.post("/v1/allocations", json=line, headers=WAIT)

    parts = [
        {"part": 0, "qty": 2, "status": "waiting", "batchref": None, "eta": None},
        {"part": 1, "qty": 5, "status": "allocated", "batchref": "shelf", "eta": None},
        {"part": 2, "qty": 5, "status": "allocated", "batchref": "ship", "eta": "2030-01-31"},
    ]
    assert answer.status_code == 200
    assert answer.json == line | {"status": "in parts", "parts": parts}
    assert [
        {name: each[name] for name in ("part", "qty", "status", "batchref", "eta")}
        for each in lines(stocked)
    ] == parts
    story: Any = stocked.get("/v1/allocations/order-1/LAMP/explanation").json
    assert (story["status"], len(story["decisions"])) == ("in parts", 3)


def test_a_whole_order_is_answered_line_by_line(stocked: FlaskClient) -> None:
    """All or nothing, one line may be split and be taken all the same."""
    order = {
        "orderid": "order-1",
        "lines": [{"sku": "LAMP", "qty": 8, "split": True}],
        "all_or_nothing": True,
        "ttl": 60,
    }
    too_much = {"orderid": "order-2", "lines": [{"sku": "LAMP", "qty": 3}], "all_or_nothing": True}

    taken = stocked.post("/v1/orders", json=order, headers=WAIT)
    refused = stocked.post("/v1/orders", json=too_much, headers=WAIT)

    assert taken.status_code == 200
    assert taken.json is not None
    assert [part["batchref"] for part in taken.json["lines"][0]["parts"]] == ["ship", "shelf"]
    assert refused.status_code == 409
    assert refused.json is not None
    assert refused.json["title"] == "not all in stock"


@pytest.mark.parametrize(
    ("path", "body", "field"),
    [
        ("/v1/reservations", BASKET | {"ttl": 0}, "ttl"),
        ("/v1/reservations", BASKET | {"customer": ""}, "customer"),
        ("/v1/reservations/order-1/extend", {}, "ttl"),
        ("/v1/orders", {"orderid": "o", "lines": []}, "lines"),
        ("/v1/orders", {"orderid": "o", "lines": [{"sku": "LAMP", "qty": 0}]}, "lines.0.qty"),
        ("/v1/orders", {"orderid": "o", "lines": [{"sku": "LAMP"}]}, "lines.0.qty"),
    ],
)
def test_a_wrong_field_is_named(
    client: FlaskClient, path: str, body: dict[str, object], field: str
) -> None:
    """Also in the middle of an order."""
    response = client.post(path, json=body)

    assert response.status_code == 422
    assert response.json is not None
    assert [error["field"] for error in response.json["errors"]] == [field]


def test_a_reservation_that_is_repeated_is_answered_with_the_end_that_holds(
    stocked: FlaskClient,
) -> None:
    first: Any = stocked.post("/v1/reservations", json=BASKET, headers=WAIT).json

    again: Any = stocked.post("/v1/reservations", json=BASKET | {"ttl": 9}, headers=WAIT).json

    assert again == first
    assert "ttl" not in again
    assert lines(stocked)[0]["expires_at"] == first["expires_at"]


def test_an_order_of_which_the_only_line_waits_is_not_confirmed(stocked: FlaskClient) -> None:
    stocked.post("/v1/reservations", json=BASKET | {"qty": 40}, headers=WAIT)
    path = "/v1/reservations/order-1/confirm"

    refused = stocked.post(path, json={"all_or_nothing": True}, headers=WAIT)
    waits = stocked.post(path, headers=WAIT)

    assert refused.status_code == 409
    assert refused.json is not None
    assert (refused.json["title"], refused.json["sku"]) == ("not all held", "LAMP")
    assert (waits.status_code, waits.json) == (
        200,
        {"orderid": "order-1", "status": "waiting", "lines": 0, "waiting": 1},
    )


def test_what_a_confirmation_says_is_held_against_its_contract(stocked: FlaskClient) -> None:
    path = "/v1/reservations/order-1/confirm"

    answers = [
        stocked.post(path, json={"all_or_nothing": "yes"}),
        stocked.post(path, data="no JSON", content_type="application/json"),
        stocked.post(path, input_stream=BytesIO(b"[]"), headers={"Transfer-Encoding": "chunked"}),
    ]

    assert [answer.status_code for answer in answers] == [422, 400, 415]
