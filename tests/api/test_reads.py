"""GETs show what the books hold, by indexed SQL."""

import itertools
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, event, insert

from allocation import bootstrap, views
from allocation.adapters import database
from allocation.adapters.tables import allocations, batches, products
from allocation.domain.books import Batch
from allocation.domain.preference import STRATEGIES
from allocation.views import catalogue, lines, moves, progress, stock
from tests.api.conftest import Serve, Worker


def batch(client: FlaskClient, batchref: str, qty: int, eta: str | None = None) -> None:
    body = {"batchref": batchref, "sku": "LAMP", "qty": qty, "eta": eta}
    assert client.post("/v1/batches", json=body).status_code == 202


def line(client: FlaskClient, orderid: str, qty: int, sku: str = "LAMP") -> None:
    body = {"orderid": orderid, "sku": sku, "qty": qty}
    assert client.post("/v1/allocations", json=body).status_code == 202


def test_an_order_shows_every_line(client: FlaskClient, idle_worker: Worker) -> None:
    """Allocated and waiting ones, by sku."""
    batch(client, "shipment", 10, "2030-01-31")
    client.post("/v1/batches", json={"batchref": "shelf", "sku": "SOFA", "qty": 1})
    line(client, "order-1", 2, "SOFA")
    line(client, "order-1", 3)
    idle_worker.decide_all()

    response = client.get("/v1/allocations/order-1")

    assert response.json == {
        "orderid": "order-1",
        "lines": [
            {
                "sku": "LAMP",
                "part": 0,
                "qty": 3,
                "status": "allocated",
                "batchref": "shipment",
                "eta": "2030-01-31",
                "expires_at": None,
            },
            {
                "sku": "SOFA",
                "part": 0,
                "qty": 2,
                "status": "waiting",
                "batchref": None,
                "eta": None,
                "expires_at": None,
            },
        ],
    }


def test_a_product_shows_its_open_batches_as_they_serve(
    client: FlaskClient, idle_worker: Worker
) -> None:
    """The shelf first, then by ETA, ties by reference; used-up batches are not listed."""
    batch(client, "late", 5, "2031-01-01")
    batch(client, "b-early", 5, "2030-01-01")
    batch(client, "B-early", 5, "2030-01-01")
    batch(client, "shelf", 5)
    batch(client, "empty-soon", 9)
    line(client, "order-1", 9)
    line(client, "order-2", 2)
    line(client, "order-3", 7)
    idle_worker.decide_all()

    response = client.get("/v1/products/LAMP")

    assert response.json is not None
    assert response.json == {
        "sku": "LAMP",
        "version": response.json["version"],
        "strategy": "earliest_first",
        "available": 18,
        "open_batches": 4,
        "waiting": {"lines": 1, "qty": 7},
        "batches": [
            {
                "batchref": "shelf",
                "qty": 5,
                "allocated": 2,
                "available": 3,
                "eta": None,
                "best_before": None,
            },
            {
                "batchref": "B-early",
                "qty": 5,
                "allocated": 0,
                "available": 5,
                "eta": "2030-01-01",
                "best_before": None,
            },
            {
                "batchref": "b-early",
                "qty": 5,
                "allocated": 0,
                "available": 5,
                "eta": "2030-01-01",
                "best_before": None,
            },
            {
                "batchref": "late",
                "qty": 5,
                "allocated": 0,
                "available": 5,
                "eta": "2031-01-01",
                "best_before": None,
            },
        ],
    }


def test_a_batch_shows_itself_even_when_it_is_used_up(
    client: FlaskClient, idle_worker: Worker
) -> None:
    """With what it holds and promises."""
    batch(client, "batch-1", 4, "2030-01-31")
    line(client, "order-1", 4)
    idle_worker.decide_all()

    response = client.get("/v1/batches/batch-1")

    assert response.json == {
        "sku": "LAMP",
        "batchref": "batch-1",
        "qty": 4,
        "allocated": 4,
        "available": 0,
        "eta": "2030-01-31",
        "best_before": None,
    }


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_product_lists_its_batches_in_the_order_of_its_strategy(
    strategy: str, client: FlaskClient, idle_worker: Worker
) -> None:
    """The same order in which the rules would have them serve."""
    days = (None, "2030-01-01", "2030-02-01")
    stock = [
        {"batchref": f"b{number}", "qty": qty, "eta": eta, "best_before": best_before}
        for number, (qty, eta, best_before) in enumerate(itertools.product((3, 5), days, days))
    ]
    for each in stock:
        client.post("/v1/batches", json=each | {"sku": "LAMP"})
    client.put("/v1/products/LAMP/strategy", json={"strategy": strategy})
    idle_worker.decide_all()

    shown = client.get("/v1/products/LAMP").json

    assert shown is not None
    assert shown["strategy"] == strategy
    listed = [
        Batch(
            each["batchref"],
            "LAMP",
            each["qty"],
            each["eta"] and date.fromisoformat(each["eta"]),
            best_before=each["best_before"] and date.fromisoformat(each["best_before"]),
        )
        for each in shown["batches"]
    ]
    assert len(listed) == len(stock)
    assert listed == STRATEGIES[strategy].sort(listed[::-1])


@pytest.mark.parametrize(
    "path", ["/v1/allocations/order-1", "/v1/products/LAMP", "/v1/batches/batch-1"]
)
def test_what_nobody_told_of_is_not_found(path: str, client: FlaskClient) -> None:
    """404."""
    assert client.get(path).status_code == 404


def test_a_product_lists_no_more_than_its_limit(client: FlaskClient, engine: Engine) -> None:
    """Its figures count all open batches, its list ends at 100; a long history is not in it."""
    used_up = [
        {"batchref": f"used-{number:05}", "sku": "LAMP", "purchased": 1, "allocated": 1}
        for number in range(2_000)
    ]
    fresh = [
        {"batchref": f"open-{number:05}", "sku": "LAMP", "purchased": 2, "allocated": 0}
        for number in range(150)
    ]
    with engine.begin() as connection:
        connection.execute(insert(products).values(sku="LAMP", version=1, sequence=0))
        connection.execute(insert(batches), used_up + fresh)

    product = client.get("/v1/products/LAMP").json

    assert product is not None
    assert (product["available"], product["open_batches"]) == (300, 150)
    assert [shown["batchref"] for shown in product["batches"]] == [
        f"open-{number:05}" for number in range(100)
    ]


def statements(engine: Engine, ask: Callable[[Connection], object]) -> list[tuple[str, Any]]:
    """The SQL that `ask` runs."""
    seen: list[tuple[str, Any]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: Any, *_rest: object) -> None:
        if not statement.startswith("BEGIN"):
            seen.append((statement, parameters))

    with engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", note)
        ask(connection)
    return seen


@pytest.mark.parametrize(
    "ask",
    [
        lambda connection: lines.order(connection, "order-1"),
        lambda connection: stock.product(connection, "LAMP"),
        lambda connection: stock.batch(connection, "batch-1"),
        progress.backlog,
        progress.figures,
        lambda connection: catalogue.page(connection, date(2030, 1, 1)),
        lambda connection: stock.batches_of(connection, "LAMP", after="batch-1"),
        lambda connection: lines.waiting(connection, "LAMP"),
        lambda connection: moves.of_product(connection, "LAMP"),
        lambda connection: moves.of_order(connection, "order-1", limit=9),
    ],
    ids=[
        *("order", "product", "batch", "backlog", "figures"),
        *("products", "batches", "waiting", "moves", "moves of an order"),
    ],
)
def test_no_read_goes_through_a_whole_table(
    ask: Callable[[Connection], object], engine: Engine
) -> None:
    """Every step of every statement goes by an index."""
    with engine.begin() as connection:
        connection.execute(insert(products).values(sku="LAMP", version=1, sequence=0))

    asked = statements(engine, ask)

    with engine.connect() as connection:
        steps = [
            str(step.detail)
            for statement, parameters in asked
            for step in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
        ]
    looked_up = [
        step for step in steps if step.startswith(("SCAN", "SEARCH")) and "CONSTANT" not in step
    ]
    assert looked_up
    assert [step for step in looked_up if " USING " not in step] == []


def test_an_order_of_many_lines_is_one_statement(client: FlaskClient, engine: Engine) -> None:
    """However many lines and batches there are."""
    skus = [f"SKU-{number:03}" for number in range(50)]
    with engine.begin() as connection:
        for sku in skus:
            connection.execute(insert(products).values(sku=sku, version=1, sequence=0))
            batch_row = {"batchref": f"{sku}-1", "sku": sku, "purchased": 1, "allocated": 1}
            connection.execute(insert(batches).values(**batch_row))
            connection.execute(
                insert(allocations).values(
                    orderid="order-1",
                    sku=sku,
                    qty=1,
                    age=1,
                    batchref=f"{sku}-1",
                    promised_at=1,
                    told=False,
                )
            )

    asked = statements(engine, lambda connection: lines.order(connection, "order-1"))
    order = client.get("/v1/allocations/order-1").json

    assert order is not None
    assert len(asked) == 1
    assert [shown["sku"] for shown in order["lines"]] == skus


def test_an_answer_is_one_moment_on_postgresql(serve: Serve, database_url: str) -> None:
    """What is committed between two statements of an answer is not in it."""
    serve(database_url=database_url)
    engine = bootstrap.engine(database_url)
    with engine.begin() as connection:
        connection.execute(insert(products).values(sku="LAMP", version=1, sequence=0))

    outside = database.engine(database_url)
    with views.snapshot(engine) as connection:
        before = stock.product(connection, "LAMP")
        with outside.begin() as other:
            row = {"batchref": "batch-1", "sku": "LAMP", "purchased": 1, "allocated": 0}
            other.execute(insert(batches).values(**row))
        during = stock.product(connection, "LAMP")
    with views.snapshot(engine) as connection:
        after = stock.product(connection, "LAMP")
    outside.dispose()

    assert before == during
    assert after is not None
    assert after["available"] == 1


def test_a_product_orders_its_batches_alike_on_postgresql(serve: Serve, database_url: str) -> None:
    """The shelf first, and references by their characters, as the rule that serves them does."""
    client = serve(database_url=database_url)
    with bootstrap.engine(database_url).begin() as connection:
        connection.execute(insert(products).values(sku="LAMP", version=1, sequence=0))
        connection.execute(
            insert(batches),
            [
                {"batchref": ref, "sku": "LAMP", "purchased": 1, "allocated": 0, "eta": eta}
                for ref, eta in [
                    ("0-shipment", date(2030, 1, 1)),
                    *((shelf, None) for shelf in ("b", "Z", "a", "é", "A", "_")),
                ]
            ],
        )

    product = client.get("/v1/products/LAMP").json

    assert product is not None
    shown = [batch["batchref"] for batch in product["batches"]]
    assert shown == ["A", "Z", "_", "a", "b", "é", "0-shipment"]
