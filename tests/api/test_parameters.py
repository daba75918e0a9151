"""No address leads to a 500: every route with hostile values in its path and its query."""

import json
import re
from collections.abc import Iterator
from typing import Any, ClassVar
from urllib.parse import quote, unquote

import pytest
from flask import Flask, Request
from flask.testing import FlaskClient
from werkzeug.datastructures import ImmutableMultiDict
from werkzeug.routing import Rule
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response

from allocation import bootstrap
from allocation.adapters.rabbitmq import topology
from allocation.entrypoints.api.http.parsing import LONGEST
from tests.api.conftest import Serve, Worker, engine_of

UNUSABLE = {
    "NUL": "a\x00b",
    "line feed": "a\nb",
    "carriage return and line feed": "a\r\nX-Evil: 1",
    "C1 control": "a\x85b",
    "delete": "a\x7f",
    "endless": "x" * (LONGEST + 1),
}
"""Refused by every route that reads them."""
HOSTILE = [
    *(quote(text, safe="") for text in UNUSABLE.values()),
    *("%FF", "%ED%A0%80", "%C3", "%", "%zz", "%2F", "%2E%2E", "%252F", "%E2%80%8B", "%F0%9F%AA%91"),
    *("9" * 18, "9" * 19, "9" * 4000, "-1", "1e9", "%D9%A3", "0:0:x", f"{'9' * 30}:{'9' * 30}:x"),
    *("'%3B%20DROP%20TABLE%20batches", "%25%25%27%22%3C%3E", "%7B%7B1%7D%7D", "a%20", ""),
]
"""As they are sent."""

NAMED = [
    ("/?q={}", "q"),
    ("/products.csv?q={}", "q"),
    ("/?after=1:{}", "after"),
    ("/orders?orderid={}", "orderid"),
    ("/products/LAMP?batches_after={}", "batches_after"),
    ("/new-batch?sku={}", "sku"),
    ("/operations/dead-letters?name={}", "name"),
    ("/stream?orderid={}", "orderid"),
    ("/products/{}", "sku"),
    ("/products/{}/moves.csv", "sku"),
    ("/orders/{}/lines.csv", "orderid"),
    ("/batches/{}", "batchref"),
    ("/v1/batches/{}", "batchref"),
    ("/v1/allocations/LAMP/{}/explanation", "sku"),
]
"""Addresses with a place for a value, and what the place is called."""


class Asking(ImmutableMultiDict[str, str]):
    """The parameters of a query, which remembers what it is asked for."""

    asked: ClassVar[set[str]] = set()

    def __contains__(self, key: object) -> bool:
        self.asked.add(str(key))
        return super().__contains__(key)

    def __getitem__(self, key: str) -> str:
        self.asked.add(key)
        return super().__getitem__(key)

    def getlist(self, key: str, *args: Any) -> Any:
        self.asked.add(key)
        return super().getlist(key, *args)


def rules(app: Flask) -> Iterator[Rule]:
    """What GET finds; `/stream` is open for good, so it is asked for what it refuses only."""
    for rule in app.url_map.iter_rules():
        if "GET" in (rule.methods or ()):
            yield rule


def address(rule: Rule, value: str) -> str:
    """The route's path with this, as it is, in the place of every argument."""
    path = rule.rule
    for name in rule.arguments:
        path = path.replace(f"<{name}>", value)
    return path


def parameters(client: FlaskClient) -> dict[str, set[str]]:
    """What each route reads from its query, if anything, as it is asked for."""
    app = client.application

    class Recording(Request):
        parameter_storage_class = Asking

    app.request_class, before = Recording, app.request_class
    found = {}
    for rule in rules(app):
        Asking.asked.clear()
        client.get(address(rule, "LAMP")).close()
        found[rule.rule] = set(Asking.asked)
    app.request_class = before
    return {route: names for route, names in found.items() if names}


@pytest.fixture(params=["sqlite_url", "database_url"])
def client(request: pytest.FixtureRequest, serve: Serve) -> FlaskClient:
    """Of the application on each database, with a product, a batch and an order named LAMP."""
    url = request.getfixturevalue(request.param)
    app = serve(database_url=url).application
    app.test_client_class = FlaskClient
    made = app.test_client()
    with bootstrap.build().broker() as connection:
        topology.declare(connection)
    made.post("/v1/batches", json={"batchref": "LAMP", "sku": "LAMP", "qty": 5})
    made.post("/v1/allocations", json={"orderid": "LAMP", "sku": "LAMP", "qty": 1})
    Worker(engine_of(made)).decide_all()
    return made


def test_no_path_makes_the_service_fail(client: FlaskClient) -> None:
    """Every GET route with something hostile in the place of each argument."""
    answers = {
        path: client.get(path).status_code
        for rule in rules(client.application)
        if rule.arguments
        for path in (address(rule, value) for value in HOSTILE)
    }

    assert {path: status for path, status in answers.items() if status >= 500} == {}


def test_no_parameter_makes_the_service_fail(client: FlaskClient) -> None:
    """Every GET route with something hostile as each parameter that it reads."""
    read = parameters(client)

    answers = {}
    for route, names in read.items():
        for value in HOSTILE:
            query = "&".join(f"{name}={value}" for name in sorted(names))
            with client.get(f"{re.sub('<.*?>', 'LAMP', route)}?{query}") as response:
                answers[route, value] = response.status_code

    assert {route: read[route] for route in ("/", "/login", "/orders", "/stream")} == {
        "/": {"after", "q", "trouble"},
        "/login": {"next"},
        "/orders": {"orderid"},
        "/stream": {"lastEventId", "orderid", "sku"},
    }
    assert {asked: status for asked, status in answers.items() if status >= 500} == {}


@pytest.mark.parametrize("client", ["sqlite_url"], indirect=True)
def test_what_can_not_be_used_is_named(client: FlaskClient) -> None:
    """422, on a page as in a problem; the value is not repeated."""
    for path, name in NAMED:
        for value in UNUSABLE.values():
            response = client.get(path.format(quote(value, safe="")))

            assert (path, response.status_code) == (path, 422)
            assert name in response.text
            assert value not in response.text
            if response.is_json:
                assert [each["field"] for each in response.get_json()["errors"]] == [name]


@pytest.mark.parametrize("client", ["sqlite_url"], indirect=True)
@pytest.mark.parametrize("sent", ["%FF", "%C3", "%ED%A0%80"])
def test_bytes_that_are_no_text_are_no_id(sent: str, client: FlaskClient) -> None:
    """As a server hands them over."""
    environ = EnvironBuilder("/v1/products/x").get_environ()
    decoded = unquote(sent, "latin-1")
    environ |= {"RAW_URI": f"/v1/products/{sent}", "PATH_INFO": f"/v1/products/{decoded}"}

    response = Response.from_app(client.application, environ)

    assert response.status_code == 422
    assert json.loads(response.get_data())["errors"] == [
        {"field": "sku", "problem": "has a character that is not Unicode text"}
    ]
