"""Whatever is wrong with a request is a 4xx that names the field, and nothing is recorded."""

import json

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, func, select

from allocation.adapters.sql.tables import commands

BATCH = {"batchref": "batch-1", "sku": "LAMP", "qty": 10}
LINE = {"orderid": "order-1", "sku": "LAMP", "qty": 3}
LONG = "x" * 300

BATCHES, LINES = "/v1/batches", "/v1/allocations"
BODIES: list[tuple[str, str, object, list[str]]] = [
    # missing, extra and mistyped fields
    ("POST", BATCHES, {}, ["batchref", "qty", "sku"]),
    ("POST", LINES, {"orderid": "order-1", "qty": 1}, ["sku"]),
    ("PATCH", f"{BATCHES}/batch-1", {}, ["best_before", "qty"]),
    ("PATCH", f"{BATCHES}/batch-1", {"colour": "red"}, ["colour", "qty"]),
    ("POST", LINES, {**LINE, "colour": "red"}, ["colour"]),
    ("POST", LINES, {**LINE, "eta": "2030-01-01"}, ["eta"]),
    ("PATCH", f"{BATCHES}/batch-1", {"qty": 1, "batchref": "batch-1"}, ["batchref"]),
    ("PATCH", f"{BATCHES}/batch-1", {"qty": 1, "sku": "LAMP"}, ["sku"]),
    ("POST", LINES, {**LINE, "qty": "3"}, ["qty"]),
    ("POST", LINES, {**LINE, "qty": True}, ["qty"]),
    ("POST", LINES, {**LINE, "qty": None}, ["qty"]),
    ("POST", LINES, {**LINE, "qty": [3]}, ["qty"]),
    ("POST", LINES, {**LINE, "sku": 7}, ["sku"]),
    ("POST", LINES, {**LINE, "orderid": {"id": "order-1"}}, ["orderid"]),
    ("POST", LINES, {"orderid": "", "sku": 7, "qty": 0}, ["orderid", "qty", "sku"]),
    ("POST", LINES, [], ["body"]),
    ("POST", LINES, "order-1", ["body"]),
    ("POST", LINES, None, ["body"]),
    # quantities that are none
    ("POST", LINES, {**LINE, "qty": 0}, ["qty"]),
    ("POST", LINES, {**LINE, "qty": -1}, ["qty"]),
    ("POST", LINES, {**LINE, "qty": 1.5}, ["qty"]),
    ("POST", LINES, {**LINE, "qty": 2**31}, ["qty"]),
    ("POST", LINES, {**LINE, "qty": 10**400}, ["qty"]),
    ("POST", BATCHES, {**BATCH, "qty": 0}, ["qty"]),
    ("PATCH", f"{BATCHES}/batch-1", {"qty": -1}, ["qty"]),
    ("PATCH", f"{BATCHES}/batch-1", {"qty": 2**31}, ["qty"]),
    # ids
    ("POST", LINES, {**LINE, "orderid": ""}, ["orderid"]),
    ("POST", LINES, {**LINE, "orderid": LONG}, ["orderid"]),
    ("POST", LINES, {**LINE, "sku": "LA\x00MP"}, ["sku"]),
    ("POST", LINES, {**LINE, "sku": "LAMP\n"}, ["sku"]),
    ("POST", LINES, {**LINE, "sku": "LA\x85MP"}, ["sku"]),
    ("POST", LINES, {**LINE, "orderid": "order-1 "}, ["orderid"]),
    ("POST", LINES, {**LINE, "orderid": ".."}, ["orderid"]),
    ("POST", BATCHES, {**BATCH, "batchref": " ", "sku": "E9\u200b"}, ["batchref", "sku"]),
    ("POST", BATCHES, {**BATCH, "sku": "e\u0301"}, ["sku"]),
    (
        "POST",
        "/v1/orders",
        {"orderid": "\ufefforder-1", "lines": [{"sku": "S", "qty": 1}]},
        ["orderid"],
    ),
    ("POST", "/v1/reservations", {**LINE, "orderid": "order\u00a01", "ttl": 60}, ["orderid"]),
    ("POST", LINES, {**LINE, "sku": "LA\ud800MP"}, ["sku"]),
    ("POST", BATCHES, {**BATCH, "batchref": ""}, ["batchref"]),
    ("POST", BATCHES, {**BATCH, "batchref": LONG}, ["batchref"]),
    ("PATCH", f"{BATCHES}/{LONG}", {"qty": 1}, ["batchref"]),
    ("PATCH", f"{BATCHES}/batch%00", {"qty": 1}, ["batchref"]),
    ("DELETE", f"{LINES}/order%0A/LAMP", None, ["orderid"]),
    ("DELETE", f"{LINES}/order-1/{LONG}", None, ["sku"]),
    ("DELETE", f"{LINES}/%7F/%07", None, ["orderid", "sku"]),
    ("GET", f"{LINES}/order%00", None, ["orderid"]),
    ("GET", f"{BATCHES}/{LONG}", None, ["batchref"]),
    ("GET", "/v1/products/LA%00MP", None, ["sku"]),
    # dates
    ("POST", BATCHES, {**BATCH, "eta": "tomorrow"}, ["eta"]),
    ("POST", BATCHES, {**BATCH, "eta": "2030-02-30"}, ["eta"]),
    ("POST", BATCHES, {**BATCH, "eta": "0000-01-01"}, ["eta"]),
    ("POST", BATCHES, {**BATCH, "eta": "2030-01-31T00:00:00"}, ["eta"]),
    ("POST", BATCHES, {**BATCH, "eta": ""}, ["eta"]),
    ("POST", BATCHES, {**BATCH, "eta": 20300131}, ["eta"]),
]


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(select(func.count()).select_from(commands)) or 0


@pytest.mark.parametrize(("method", "path", "body", "fields"), BODIES)
def test_a_field_that_breaks_the_contract_is_named(
    method: str, path: str, body: object, fields: list[str], client: FlaskClient, engine: Engine
) -> None:
    """422, each wrong field once, no value repeated, no command recorded."""
    sends = method in ("POST", "PATCH")

    response = client.open(
        path,
        method=method,
        data=json.dumps(body) if sends else None,
        content_type="application/json" if sends else None,
    )

    assert response.status_code == 422
    assert response.json is not None
    assert response.json["type"] == "/problems/invalid-input"
    assert sorted(error["field"] for error in response.json["errors"]) == fields
    assert LONG not in response.text
    assert count(engine) == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"{} {}",
        b"{'orderid': 'order-1'}",
        b'{"orderid": "order-1", "sku": "LAMP", "qty": 3,}',
        b'{"orderid": "order-1", "orderid": "order-2", "sku": "LAMP", "qty": 3}',
        b'{"orderid": "order-1", "sku": "LAMP", "qty": NaN}',
        b'{"orderid": "order-1", "sku": "LAMP", "qty": Infinity}',
        b'{"orderid": "order-1", "sku": "LAMP", "qty": -Infinity}',
        b'{"orderid": "order-1\n", "sku": "LAMP", "qty": 3}',
        b'{"orderid": "\xff", "sku": "LAMP", "qty": 3}',
        b'\xef\xbb\xbf{"orderid": "order-1", "sku": "LAMP", "qty": 3}',
        '{"orderid": "order-1", "sku": "LAMP", "qty": 3}'.encode("utf-16"),
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"orderid": "order-1", "sku": "LAMP", "qty": ' + b"9" * 5000 + b"}",
    ],
    ids=lambda body: repr(body[:60]),
)
def test_a_body_that_is_no_json_is_malformed(
    body: bytes, client: FlaskClient, engine: Engine
) -> None:
    """400, whatever a lenient parser would have made of it."""
    response = client.post("/v1/allocations", data=body, content_type="application/json")

    assert response.status_code == 400
    assert response.json is not None
    assert response.json["type"] == "/problems/malformed-json"
    assert count(engine) == 0


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Content-Type": "text/plain"},
        {"Content-Type": "application/x-www-form-urlencoded"},
        {"Content-Type": "application/jsonp"},
        {"Content-Type": "application/json", "Content-Encoding": "gzip"},
    ],
)
def test_a_body_of_another_kind_is_not_read(headers: dict[str, str], client: FlaskClient) -> None:
    """415."""
    body = b'{"orderid": "order-1", "sku": "LAMP", "qty": 3}'

    response = client.post("/v1/allocations", data=body, headers=headers)

    assert response.status_code == 415


def test_a_charset_beside_the_kind_does_no_harm(client: FlaskClient) -> None:
    """Many clients name the only one that JSON has."""
    body = '{"orderid": "order-1", "sku": "STÜHL", "qty": 3}'.encode()

    response = client.post(
        "/v1/allocations", data=body, content_type="application/json; charset=utf-8"
    )

    assert response.status_code == 202


@pytest.mark.parametrize(("size", "status"), [(2**20, 422), (2**20 + 1, 413), (2_000_000, 413)])
def test_a_body_has_at_most_one_mebibyte(size: int, status: int, client: FlaskClient) -> None:
    """413 from the first byte beyond."""
    response = client.post(
        "/v1/allocations", data=b"{}".ljust(size), content_type="application/json"
    )

    assert response.status_code == status


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/v1/batches/", 404),
        ("DELETE", "/v1/allocations//LAMP", 404),
        ("GET", "/v1/batches/a%2Fb", 404),
        ("GET", "/v1/commands/not-a-uuid", 404),
        ("GET", "/v1/commands/7c5aa1d2-1f6f-4bd1-8f3c-0a7f5a0d6a11", 404),
        ("GET", "/docs/..%2F__init__.py", 404),
        ("GET", "/docs/LICENSE", 404),
        ("GET", "/problems/none", 404),
        ("PUT", "/v1/batches", 405),
        ("GET", "/v1/batches", 405),
        ("POST", "/v1/products/LAMP", 405),
        ("BREW", "/v1/batches", 405),
    ],
)
def test_what_is_not_there_is_a_problem_too(
    method: str, path: str, status: int, client: FlaskClient
) -> None:
    """404 and 405 as problem details, without a redirect to another spelling."""
    response = client.open(path, method=method)

    assert response.status_code == status
    assert response.json is not None
    assert response.json["type"] == "about:blank"
    assert ("Allow" in response.headers) == (status == 405)


def test_unknown_query_parameters_change_nothing(client: FlaskClient) -> None:
    """They are ignored."""
    assert client.get("/healthz?verbose=1").json == {"status": "alive"}
