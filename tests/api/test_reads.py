"""GETs show what the books hold, by indexed SQL."""

import itertools
from collections.abc import Callable
from datetime import date
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, event, insert, text, update

from allocation import views
from allocation.adapters.sql import database
from allocation.adapters.sql.tables import allocations, batches, products
from allocation.domain.books import Batch
from allocation.domain.strategies import STRATEGIES
from allocation.views import catalogue, lines, moves, progress, stock
from tests.api.conftest import Serve, Worker, engine_of

TODAY = date(2030, 1, 1)


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
                "dispatched_qty": 0,
                "returned": 0,
                "priority": 0,
                "not_before": None,
                "fresh_days": 0,
            },
            {
                "sku": "SOFA",
                "part": 0,
                "qty": 2,
                "status": "waiting",
                "batchref": None,
                "eta": None,
                "expires_at": None,
                "dispatched_qty": 0,
                "returned": 0,
                "priority": 0,
                "not_before": None,
                "fresh_days": 0,
            },
        ],
    }


def test_a_product_shows_its_batches_as_they_serve(
    client: FlaskClient, idle_worker: Worker
) -> None:
    """The shelf first, then by ETA, ties by reference; batches without free pieces last."""
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
        "waiting_rule": "fill",
        "improve": True,
        "available": 18,
        "open_batches": 4,
        "overdue": {"batches": 0, "qty": 0},
        "unusable": {"batches": 0, "qty": 0},
        "waiting": {"lines": 1, "qty": 7},
        "batches": [
            {
                "batchref": "shelf",
                "qty": 5,
                "allocated": 2,
                "available": 3,
                "eta": None,
                "best_before": None,
                "blocked": None,
                "expired": False,
                "overdue": False,
            },
            {
                "batchref": "B-early",
                "qty": 5,
                "allocated": 0,
                "available": 5,
                "eta": "2030-01-01",
                "best_before": None,
                "blocked": None,
                "expired": False,
                "overdue": False,
            },
            {
                "batchref": "b-early",
                "qty": 5,
                "allocated": 0,
                "available": 5,
                "eta": "2030-01-01",
                "best_before": None,
                "blocked": None,
                "expired": False,
                "overdue": False,
            },
            {
                "batchref": "late",
                "qty": 5,
                "allocated": 0,
                "available": 5,
                "eta": "2031-01-01",
                "best_before": None,
                "blocked": None,
                "expired": False,
                "overdue": False,
            },
            {
                "batchref": "empty-soon",
                "qty": 9,
                "allocated": 9,
                "available": 0,
                "eta": None,
                "best_before": None,
                "blocked": None,
                "expired": False,
                "overdue": False,
            },
        ],
        "next": None,
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
        "blocked": None,
        "expired": False,
        "overdue": False,
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
        if not (eta and best_before and best_before < eta)
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
    assert listed == STRATEGIES[strategy].sort(listed[::-1], date.min)


@pytest.mark.parametrize(
    "path", ["/v1/allocations/order-1", "/v1/products/LAMP", "/v1/batches/batch-1"]
)
def test_what_nobody_told_of_is_not_found(path: str, client: FlaskClient) -> None:
    """404."""
    assert client.get(path).status_code == 404


ROW = dict[str, Any]


def put(engine: Engine, *rows: ROW) -> None:
    """The product LAMP with these batches, on the shelf unless they say otherwise."""
    plain = {"sku": "LAMP", "purchased": 1, "allocated": 0, "eta": None, "best_before": None}
    with engine.begin() as connection:
        connection.execute(insert(products).values(sku="LAMP", version=1, sequence=0))
        connection.execute(insert(batches), [plain | row for row in rows])


def followed(client: FlaskClient, path: str) -> list[list[str]]:
    """The references on each page, from the first link to the last."""
    pages = []
    following: str | None = path
    while following:
        page = client.get(following).json
        assert page is not None
        pages.append([batch["batchref"] for batch in page["batches"]])
        following = page["next"]
    return pages


def listed(pages: list[list[str]]) -> list[str]:
    return [batchref for page in pages for batchref in page]


@pytest.fixture(params=["sqlite", "postgresql"])
def stored(request: pytest.FixtureRequest, serve: Serve) -> FlaskClient:
    """A client of the application on each SQL database."""
    name = {"sqlite": "sqlite_url", "postgresql": "database_url"}[request.param]
    return serve(database_url=request.getfixturevalue(name))


def test_a_product_whose_batches_are_all_promised_lists_them(
    client: FlaskClient, engine: Engine
) -> None:
    put(engine, *({"batchref": f"batch-{number}", "allocated": 1} for number in range(5)))

    product = client.get("/v1/products/LAMP").json

    assert product is not None
    assert (product["open_batches"], product["next"]) == (0, None)
    assert [each["batchref"] for each in product["batches"]] == [
        f"batch-{number}" for number in range(5)
    ]


def test_a_product_lists_a_hundred_batches_and_links_to_the_rest(
    client: FlaskClient, engine: Engine
) -> None:
    put(engine, *({"batchref": f"batch-{number:03}"} for number in range(250)))

    pages = followed(client, "/v1/products/LAMP")

    assert [len(page) for page in pages] == [100, 100, 50]
    assert listed(pages) == [f"batch-{number:03}" for number in range(250)]


ALL_KINDS: list[ROW] = [
    {"batchref": "z-shelf", "purchased": 9},
    {"batchref": "A-early", "purchased": 8, "eta": date(2030, 1, 1)},
    {"batchref": "a-early", "purchased": 7, "eta": date(2030, 1, 1)},
    {
        "batchref": "late:0",
        "purchased": 1,
        "eta": date(2031, 1, 1),
        "best_before": date(2032, 1, 1),
    },
    {"batchref": "promised-late", "purchased": 5, "allocated": 5, "eta": date(2031, 1, 1)},
    {"batchref": "promised-shelf", "purchased": 5, "allocated": 5},
    {"batchref": "a-gone", "purchased": 0},
    {"batchref": "B-gone", "purchased": 0, "eta": date(2020, 1, 1)},
]


@pytest.mark.parametrize("size", [1, 2, 3, 8, 1000])
@pytest.mark.parametrize(
    ("strategy", "as_they_serve"),
    [
        ("earliest_first", ["z-shelf", "A-early", "a-early", "late:0"]),
        ("first_to_expire", ["late:0", "z-shelf", "A-early", "a-early"]),
        ("fewest_open", ["late:0", "a-early", "A-early", "z-shelf"]),
    ],
)
def test_the_pages_of_a_product_follow_each_other_without_a_gap_or_a_repeat(
    strategy: str, as_they_serve: list[str], size: int, client: FlaskClient, engine: Engine
) -> None:
    """Those with free pieces as they serve, then the promised ones, then the empty ones."""
    put(engine, *ALL_KINDS)
    with engine.begin() as connection:
        connection.execute(update(products).values(strategy=strategy))

    pages = followed(client, f"/v1/products/LAMP?limit={size}")
    of_open = followed(client, f"/v1/products/LAMP?limit={size}&open=true")

    rest = ["promised-shelf", "promised-late", "B-gone", "a-gone"]
    assert {len(page) for page in pages[:-1]} <= {size}
    assert listed(pages) == as_they_serve + rest
    assert listed(of_open) == as_they_serve


def test_the_pages_of_a_product_are_the_same_on_each_database(stored: FlaskClient) -> None:
    put(engine_of(stored), *ALL_KINDS)

    pages = followed(stored, "/v1/products/LAMP?limit=3")

    assert pages == [
        ["z-shelf", "A-early", "a-early"],
        ["late:0", "promised-shelf", "promised-late"],
        ["B-gone", "a-gone"],
    ]


def test_a_page_goes_on_where_the_last_one_ended_though_its_batch_has_changed(
    client: FlaskClient, engine: Engine
) -> None:
    """The last batch of the first page is promised whole before the second page is read."""
    put(engine, *({"batchref": f"batch-{number}"} for number in range(4)))
    first = client.get("/v1/products/LAMP?limit=2").json
    assert first is not None
    with engine.begin() as connection:
        connection.execute(
            update(batches).where(batches.c.batchref == "batch-1").values(allocated=1)
        )

    assert followed(client, first["next"]) == [["batch-2", "batch-3"], ["batch-1"]]


@pytest.mark.parametrize("database", ["sqlite_url", "database_url"])
@pytest.mark.parametrize(
    "cursor", ["0:9999999999:0:9999999:x", "1:0:9999999:0:\uffff", "2:0:::" + "é" * 255]
)
def test_whatever_looks_like_a_cursor_is_taken(
    cursor: str, database: str, serve: Serve, request: pytest.FixtureRequest
) -> None:
    """As the description says."""
    client = serve(database_url=request.getfixturevalue(database))
    put(engine_of(client), *ALL_KINDS)
    for strategy in STRATEGIES:
        with engine_of(client).begin() as connection:
            connection.execute(update(products).values(strategy=strategy))

        answer = client.get("/v1/products/LAMP", query_string={"after": cursor})

        assert answer.status_code == 200


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("limit=0", "limit"),
        ("limit=1001", "limit"),
        ("limit=", "limit"),
        ("limit=ten", "limit"),
        ("limit=-1", "limit"),
        ("limit=%C2%B2", "limit"),
        ("open=maybe", "open"),
        ("open=", "open"),
        ("after=", "after"),
        ("after=batch-1", "after"),
        ("after=3:1:::batch-1", "after"),
        ("after=0:1:2030-13-01::batch-1", "after"),
        ("after=0:1:::batch%00", "after"),
        ("after=0:%D9%A1:::batch", "after"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(query: str, field: str, client: FlaskClient) -> None:
    problem = client.get(f"/v1/products/LAMP?{query}")

    assert problem.status_code == 422
    assert problem.json is not None
    assert [error["field"] for error in problem.json["errors"]] == [field]


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
        lambda connection: lines.line(connection, "order-1", "LAMP"),
        lambda connection: stock.product(connection, "LAMP", TODAY),
        lambda connection: stock.batch(connection, "batch-1", TODAY),
        lambda connection: progress.backlog(connection, 300),
        lambda connection: progress.current(connection, 300),
        lambda connection: catalogue.page(connection, TODAY),
        lambda connection: stock.batches_of(
            connection, "LAMP", "earliest_first", TODAY, after=stock.cursor("0:1:::batch-1")
        ),
        lambda connection: lines.waiting(connection, "LAMP"),
        lambda connection: moves.of_product(connection, "LAMP"),
        lambda connection: moves.of_order(connection, "order-1", limit=9),
    ],
    ids=[
        *("order", "line", "product", "batch", "backlog", "figures"),
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


def test_the_empty_batches_of_a_product_are_read_in_the_order_of_an_index(engine: Engine) -> None:
    """A page of them costs the same however many there are: nothing is sorted."""
    cursor = stock.cursor("2:0:::batch-1")

    asked = statements(
        engine,
        lambda connection: stock.batches_of(
            connection, "LAMP", "earliest_first", TODAY, after=cursor
        ),
    )

    with engine.connect() as connection:
        [(statement, parameters)] = asked
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters).all()
    assert [str(step.detail) for step in plan] == [
        "SEARCH batches USING INDEX ix_batches_sku (sku=? AND purchased=? AND batchref>?)"
    ]


def test_the_empty_batches_are_read_in_the_order_of_an_index_on_postgresql(
    serve: Serve, database_url: str
) -> None:
    engine = engine_of(serve(database_url=database_url))
    cursor = stock.cursor("2:0:::batch-1")

    asked = statements(
        engine,
        lambda connection: stock.batches_of(
            connection, "LAMP", "earliest_first", TODAY, after=cursor
        ),
    )

    with engine.connect() as connection:
        [(statement, parameters)] = asked
        # Of a table without rows PostgreSQL would read the whole.
        for other in ("seqscan", "bitmapscan"):
            connection.execute(text(f"SET enable_{other} = off"))
        plan = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars().all()
    assert any("Index Scan using ix_batches_sku on batches" in step for step in plan)
    assert not any("Sort" in step for step in plan)


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
    engine = engine_of(serve(database_url=database_url))
    with engine.begin() as connection:
        connection.execute(insert(products).values(sku="LAMP", version=1, sequence=0))

    outside = database.engine(database_url)
    with views.snapshot(engine) as connection:
        before = stock.product(connection, "LAMP", TODAY)
        with outside.begin() as other:
            row = {"batchref": "batch-1", "sku": "LAMP", "purchased": 1, "allocated": 0}
            other.execute(insert(batches).values(**row))
        during = stock.product(connection, "LAMP", TODAY)
    with views.snapshot(engine) as connection:
        after = stock.product(connection, "LAMP", TODAY)
    outside.dispose()

    assert before == during
    assert after is not None
    assert after["available"] == 1


def test_a_product_orders_its_batches_alike_on_postgresql(serve: Serve, database_url: str) -> None:
    """The shelf first, and references by their characters, as the rule that serves them does."""
    client = serve(database_url=database_url)
    with engine_of(client).begin() as connection:
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
