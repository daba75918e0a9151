"""Ids in paths: any character, an encoded slash too, on the API, the pages, sheets and links."""

import csv
from collections.abc import Callable, Mapping
from io import StringIO
from typing import Any
from urllib.parse import quote

import pytest
from bs4 import BeautifulSoup
from flask.testing import FlaskClient
from sqlalchemy import Engine, insert
from werkzeug.http import parse_options_header
from werkzeug.test import EnvironBuilder
from werkzeug.wrappers import Response

from allocation import bootstrap
from allocation.adapters.sql.tables import batches, products
from allocation.entrypoints.api.app import create_app
from tests.api.conftest import Serve, Worker

IDS = [
    "SO/2026/001",
    "/",
    "//",
    "100%",
    "a%2Fb",
    "a?b#c",
    "a b+c",
    "żółw",
    "a;b&c=d",
    "...",
    "ä/漢",
]

Post = Callable[..., None]


@pytest.fixture
def visitor(serve: Serve, sqlite_url: str) -> FlaskClient:
    """A client that asks for pages, too."""
    app = serve(database_url=sqlite_url).application
    app.test_client_class = FlaskClient
    return app.test_client()


def links(client: FlaskClient, path: str) -> list[str]:
    """The addresses on a page: links, forms, and what its script asks for."""
    page = BeautifulSoup(client.get(path).text, "html.parser")
    found = [tag.get("href") or tag.get("action") for tag in page.find_all(["a", "form"])]
    found += [tag["hx-get"] for tag in page.select("[hx-get]")]
    return [str(each) for each in found if each and str(each).startswith("/")]


@pytest.mark.parametrize("text", IDS)
def test_what_any_id_names_is_found_and_changed_by_its_path(
    text: str, client: FlaskClient, idle_worker: Worker
) -> None:
    each = quote(text, safe="")

    def done(method: str, path: str, body: Mapping[str, Any] | None = None) -> None:
        assert client.open(path, method=method, json=body).status_code == 202
        idle_worker.decide_all()

    done("POST", "/v1/batches", {"batchref": text, "sku": text, "qty": 5})
    done("PATCH", f"/v1/batches/{each}", {"qty": 9})
    done("POST", f"/v1/batches/{each}/write-offs", {"qty": 1, "reason": "wet"})
    done("POST", f"/v1/batches/{each}/receipts", {"qty": 2})
    done("PUT", f"/v1/batches/{each}/block", {"reason": "recall"})
    done("DELETE", f"/v1/batches/{each}/block")
    done("PUT", f"/v1/products/{each}/strategy", {"strategy": "fewest_open"})
    done("POST", "/v1/reservations", {"orderid": text, "sku": text, "qty": 2, "ttl": 60})
    done("POST", f"/v1/reservations/{each}/confirm")

    done("PATCH", f"/v1/allocations/{each}/{each}", {"qty": 3})
    done("POST", f"/v1/allocations/{each}/{each}/dispatches", {"qty": 1})
    done("POST", f"/v1/allocations/{each}/{each}/returns", {"qty": 1, "batchref": text})

    batch = client.get(f"/v1/batches/{each}").get_json()
    line = client.get(f"/v1/allocations/{each}/{each}").get_json()
    product = client.get(f"/v1/products/{each}").get_json()
    order = client.get(f"/v1/allocations/{each}").get_json()
    why = client.get(f"/v1/allocations/{each}/{each}/explanation").get_json()
    assert (batch["batchref"], batch["qty"]) == (text, 10)
    assert (line["sku"], line["qty"], line["returned"]) == (text, 3, 1)
    assert product["strategy"] == "fewest_open"
    assert [line["status"] for line in order["lines"]] == ["allocated"]
    assert why["sku"] == text

    done("DELETE", f"/v1/allocations/{each}/{each}")
    [left] = client.get(f"/v1/allocations/{each}").get_json()["lines"]
    assert (left["status"], left["qty"]) == ("dispatched", 1)
    done("POST", "/v1/reservations", {"orderid": f"{text}-2", "sku": text, "qty": 2, "ttl": 60})
    done("DELETE", f"/v1/orders/{quote(f'{text}-2', safe='')}")
    assert client.get(f"/v1/allocations/{quote(f'{text}-2', safe='')}").status_code == 404


@pytest.mark.parametrize("text", IDS)
def test_every_link_of_the_pages_of_any_id_leads_somewhere(
    text: str, visitor: FlaskClient, idle_worker: Worker
) -> None:
    """Sheets, forms and what is fetched again by itself, too."""
    visitor.post("/v1/batches", json={"batchref": text, "sku": text, "qty": 5})
    for orderid in (text, f"{text}-waits"):
        visitor.post("/v1/allocations", json={"orderid": orderid, "sku": text, "qty": 4})
    idle_worker.decide_all()
    each = quote(text, safe="")

    found = {
        link
        for path in ("/", f"/products/{each}", f"/orders/{each}", f"/batches/{each}")
        for link in links(visitor, path)
    }

    assert {f"/{what}/{each}" for what in ("products", "orders", "batches")} <= found
    assert {link: visitor.get(link).status_code for link in found} == dict.fromkeys(found, 200)
    search = visitor.get("/orders", query_string={"orderid": text})
    assert search.headers["Location"] == f"/orders/{each}"


@pytest.mark.parametrize("text", IDS)
def test_the_sheets_of_any_id_have_its_rows_and_a_file_s_name(
    text: str, visitor: FlaskClient, idle_worker: Worker
) -> None:
    visitor.post("/v1/batches", json={"batchref": text, "sku": text, "qty": 5})
    visitor.post("/v1/allocations", json={"orderid": text, "sku": text, "qty": 4})
    idle_worker.decide_all()

    sheet = visitor.get(f"/orders/{quote(text, safe='')}/lines.csv")

    kind, parameters = parse_options_header(sheet.headers["Content-Disposition"])
    assert [row[0] for row in csv.reader(StringIO(sheet.text))] == ["sku", text]
    assert kind == "attachment"
    assert parameters.keys() == {"filename"}
    assert parameters["filename"].startswith("lines of ")
    assert not set('/\\"?*') & set(parameters["filename"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("o-1", 'attachment; filename="lines of o-1.csv"'),
        (
            "żółw",
            'attachment; filename="lines of zow.csv";'
            " filename*=UTF-8''lines%20of%20%C5%BC%C3%B3%C5%82w.csv",
        ),
        (
            "a\";filename*=UTF-8''evil.exe;x=\"",
            "attachment; filename=\"lines of a_;filename_=UTF-8''evil.exe;x=_.csv\"",
        ),
    ],
)
def test_the_name_of_a_download_is_quoted(text: str, expected: str, visitor: FlaskClient) -> None:
    """An order's id names the file, and adds no parameter."""
    sheet = visitor.get(f"/orders/{quote(text, safe='')}/lines.csv")

    assert (sheet.status_code, sheet.headers["Content-Disposition"]) == (200, expected)


def test_an_id_that_an_older_release_stored_is_found(visitor: FlaskClient, engine: Engine) -> None:
    """With a blank at its end, by the API, a page and the search."""
    with engine.begin() as connection:
        connection.execute(insert(products).values(sku="E9 ", version=1, sequence=0))
        row = {"batchref": "b\u200b", "sku": "E9 ", "purchased": 1, "allocated": 0}
        connection.execute(insert(batches).values(row))

    assert visitor.get("/v1/products/E9%20").status_code == 200
    assert visitor.get("/products/E9%20").status_code == 200
    assert visitor.get("/v1/batches/b%E2%80%8B").status_code == 200
    assert visitor.patch("/v1/batches/b%E2%80%8B", json={"qty": 2}).status_code == 202


@pytest.mark.parametrize(
    "path",
    [
        "/v1/batches/a%252Fb",  # the id a%2Fb, not a/b
        "/v1/batches/a/b",
        "/v1/batches/a%2Fb/",
        "/v1/batches//a%2Fb",
        "/v1%2Fbatches%2Fa%2Fb",
        "/v1/batches/%2E%2E/batches/a%2Fb",
    ],
)
def test_a_path_has_one_reading(path: str, client: FlaskClient, idle_worker: Worker) -> None:
    """Nothing is decoded twice, and no segment steps back."""
    client.post("/v1/batches", json={"batchref": "a/b", "sku": "LAMP", "qty": 1})
    idle_worker.decide_all()

    assert client.get("/v1/batches/a%2Fb").status_code == 200
    assert client.get("/v1/batches/a%2fb").status_code == 200
    assert client.get(path).status_code == 404


def test_a_key_stands_for_a_resource_however_its_path_is_spelt(client: FlaskClient) -> None:
    """Lower-case hexadecimal digits, and characters that need no encoding."""
    once = {
        client.patch(path, json={"qty": 1}, headers={"Idempotency-Key": "k"}).headers["Location"]
        for path in ("/v1/batches/%C3%A4%2Fb", "/v1/batches/%c3%a4%2fb", "/v1/batches/%C3%A4%2F%62")
    }

    assert len(once) == 1


@pytest.mark.parametrize(
    "change",
    [
        lambda environ: environ.pop("RAW_URI"),
        lambda environ: environ.update(RAW_URI="http://localhost/v1/batches/E%209?x=1#y"),
        lambda environ: environ.update(RAW_URI="/front/v1/batches/E%209", SCRIPT_NAME="/front"),
        lambda environ: environ.update(RAW_URI="/elsewhere"),
    ],
    ids=["no raw path", "absolute form", "under a prefix", "changed in front"],
)
def test_what_a_server_in_front_says_of_the_path_is_enough(
    change: Callable[[dict[str, Any]], object], client: FlaskClient, idle_worker: Worker
) -> None:
    """Without the path as it was sent only an encoded slash is lost."""
    client.post("/v1/batches", json={"batchref": "E 9", "sku": "LAMP", "qty": 1})
    idle_worker.decide_all()
    environ = EnvironBuilder("/v1/batches/E%209").get_environ() | {"REQUEST_URI": ""}

    change(environ)

    assert Response.from_app(client.application, environ).status_code == 200


def test_the_route_and_not_the_path_is_counted(visitor: FlaskClient) -> None:
    visitor.get("/v1/allocations/SO%2F2026%2F001")

    told = visitor.get("/metrics").text
    assert 'route="/v1/allocations/<orderid>",status="4xx"' in told
    assert "SO" not in told


def test_log_in_leads_back_to_the_page_of_an_id_with_a_slash(serve: Serve, sqlite_url: str) -> None:
    """The address is carried through the form."""
    serve(database_url=sqlite_url, api_key="a-long-enough-key")
    visitor = create_app(bootstrap.build()).test_client()

    sent = visitor.get("/orders/SO%2F1%25", headers={"Accept": "text/html"})
    page = BeautifulSoup(visitor.get(sent.headers["Location"]).text, "html.parser")

    assert [str(each["value"]) for each in page.find_all("input", attrs={"name": "next"})] == [
        "/orders/SO%2F1%25"
    ]
