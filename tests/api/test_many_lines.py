"""Many order lines in one request: one transaction, one answer for each line."""

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, event, func, select, text

from allocation.adapters.sql import database
from allocation.adapters.sql.tables import commands, outbox
from allocation.entrypoints.api import state
from tests.api.conftest import Serve, Worker, engine_of

PATH = "/v1/allocations"
KEY = {"Idempotency-Key": "key-1"}
WAIT = {"Prefer": "wait=10"}
MANY = 1000


def line(number: int, **fields: Any) -> dict[str, Any]:
    """A good line of an order of this number."""
    return {"orderid": f"order-{number}", "sku": "LAMP", "qty": 1} | fields


def lines(count: int) -> dict[str, Any]:
    """A body of so many good lines."""
    return {"lines": [line(number) for number in range(count)]}


def rows(engine: Engine) -> tuple[int, int]:
    """How many commands and how many rows of the outbox there are."""
    with engine.connect() as connection:
        counts = [
            connection.scalar(select(func.count()).select_from(table)) or 0
            for table in (commands, outbox)
        ]
    return counts[0], counts[1]


def told(client: FlaskClient, body: Any, **headers: str) -> list[dict[str, Any]]:
    """What a request that is accepted answers for each line."""
    response = client.post(PATH, json=body, headers=headers)
    assert response.status_code in (200, 202)
    assert response.json is not None
    answers: list[dict[str, Any]] = response.json["lines"]
    return answers


def pending(command_id: str) -> dict[str, Any]:
    """The answer for a line that is on record."""
    return {"status": "pending", "id": command_id, "location": f"/v1/commands/{command_id}"}


def rejected(index: int, *errors: tuple[str, str]) -> dict[str, Any]:
    """The answer for a line that breaks the contract."""
    return {
        "status": "rejected",
        "problem": {
            "type": "/problems/invalid-input",
            "title": "invalid input",
            "status": 422,
            "detail": "A field breaks the contract; `errors` has each invalid field and its"
            " problem.",
            "index": index,
            "errors": [{"field": field, "problem": problem} for field, problem in errors],
        },
    }


@pytest.fixture
def outside(database_url: str) -> Iterator[Engine]:
    """A PostgreSQL database, seen from outside the application."""
    made = database.engine(database_url)
    yield made
    made.dispose()


@pytest.mark.parametrize("database", ["sqlite_url", "database_url"])
def test_a_thousand_lines_are_accepted_together(
    database: str, request: pytest.FixtureRequest, serve: Serve
) -> None:
    """202 with an address for each, in their order; each has its row in the outbox."""
    url = request.getfixturevalue(database)
    client = serve(database_url=url)
    body = lines(MANY)

    response = client.post(PATH, json=body)

    assert response.status_code == 202
    assert response.headers["Retry-After"] == "1"
    assert "Location" not in response.headers
    assert response.json is not None
    ids = [answer["id"] for answer in response.json["lines"]]
    assert response.json == {"lines": [pending(command_id) for command_id in ids]}
    with engine_of(client).connect() as connection:
        accepted = connection.execute(select(commands.c.id, commands.c.body)).all()
        sent = connection.execute(select(outbox.c.id, outbox.c.body).order_by(outbox.c.position))
        in_order = [(str(row.id), row.body) for row in sent]
    assert in_order == list(zip(ids, body["lines"], strict=True))
    assert {str(row.id): row.body for row in accepted} == dict(in_order)


def test_a_bad_line_gets_its_problem_and_harms_no_other(
    client: FlaskClient, engine: Engine
) -> None:
    """Each in its place: what is wrong with it, and which it is."""
    body = {"lines": [line(0), {"orderid": "", "sku": "LAMP"}, line(2), "no line", line(4, eta=1)]}

    answers = told(client, body)

    assert answers == [
        pending(answers[0]["id"]),
        rejected(
            1,
            ("qty", "is missing"),
            ("orderid", "the value is shorter than 1 character"),
        ),
        pending(answers[2]["id"]),
        rejected(3, ("body", 'the value is not of type "object"')),
        rejected(4, ("eta", "is not a field of this command")),
    ]
    assert rows(engine) == (2, 2)


def test_a_request_without_a_good_line_is_refused(client: FlaskClient, engine: Engine) -> None:
    """422 as for a single line; `lines` tells of each."""
    response = client.post(PATH, json={"lines": [line(0, qty=0), {"sku": "LAMP"}]})

    assert response.status_code == 422
    assert response.json == {
        "type": "/problems/invalid-input",
        "title": "invalid input",
        "status": 422,
        "detail": "A field breaks the contract; `errors` has each invalid field and its problem.",
        "errors": [{"field": "lines", "problem": "has no valid line"}],
        "lines": [
            rejected(0, ("qty", "the value is less than the minimum of 1")),
            rejected(1, ("orderid", "is missing"), ("qty", "is missing")),
        ],
    }
    assert rows(engine) == (0, 0)


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ({"lines": []}, "has 0 lines and may have 1 to 1000"),
        (lines(MANY + 1), "has 1001 lines and may have 1 to 1000"),
        ({"lines": {}}, "is not a list"),
        ({"lines": None}, "is not a list"),
        ({"lines": [line(0)]} | line(1), "must be the only field"),
        ({"line": [line(0)]}, "is missing"),
        ({}, "is missing"),
    ],
    ids=["none", "too many", "an object", "null", "both", "misspelt", "nothing"],
)
def test_a_body_of_neither_shape_is_refused(
    body: object, problem: str, client: FlaskClient, engine: Engine
) -> None:
    """422, and the field is `lines`."""
    response = client.post(PATH, json=body)

    assert response.status_code == 422
    assert response.json is not None
    assert response.json["errors"] == [{"field": "lines", "problem": problem}]
    assert rows(engine) == (0, 0)


def test_a_thousand_lines_with_ids_of_any_length_fit_into_a_request(client: FlaskClient) -> None:
    """255 characters for each id."""
    longest = {"orderid": "x" * 255, "sku": "x" * 255, "qty": 2**31 - 1}

    response = client.post(PATH, json={"lines": [longest] * MANY})

    assert response.status_code == 202


def test_a_connection_that_dies_leaves_no_line_behind(
    serve: Serve, database_url: str, outside: Engine
) -> None:
    """Cut off once all are written, the caller hears 503, and none of them stays."""
    client = serve(database_url=database_url)

    def cut(connection: Connection, _cursor: Any, statement: str, values: Any, *_rest: Any) -> None:
        if statement.startswith("EXECUTE") and "order-19" in str(values):
            session = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
            with outside.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": session})

    event.listen(engine_of(client), "after_cursor_execute", cut)
    response = client.post(PATH, json=lines(20))

    assert response.status_code == 503
    assert rows(outside) == (0, 0)


@pytest.mark.parametrize("database", ["sqlite_url", "database_url"])
def test_a_repeated_request_is_the_same_commands(
    database: str, request: pytest.FixtureRequest, serve: Serve
) -> None:
    """Same answer, same addresses, taken once; however the same numbers are written."""
    url = request.getfixturevalue(database)
    client = serve(database_url=url)
    body = {"lines": [{"sku": 7}, line(1), line(2)]}
    respelt = {"lines": [{"sku": 7}, line(1), line(2, qty=1.0)]}

    first, second = told(client, body, **KEY), told(client, respelt, **KEY)

    assert second == first
    assert rows(engine_of(client)) == (2, 2)


@pytest.mark.parametrize(
    "other",
    [
        {"lines": [line(0), line(1), line(9)]},
        {"lines": [line(1), line(0), line(2)]},
        {"lines": [line(0), line(1)]},
        {"lines": [line(0)]},
        {"lines": [line(0), line(1), line(2), line(3)]},
        {"lines": [line(0), line(1), line(2), {"sku": 7}]},
        {"lines": [{"sku": 7}, line(1), line(2)]},
        line(0),
    ],
    ids=["one", "order", "fewer", "first", "more", "bad one more", "bad one", "a single one"],
)
@pytest.mark.parametrize("database", ["sqlite_url", "database_url"])
def test_a_key_that_comes_with_other_lines_is_refused(
    other: object, database: str, request: pytest.FixtureRequest, serve: Serve
) -> None:
    """422, and nothing of the second request is taken, whichever of the two came first."""
    url = request.getfixturevalue(database)
    client = serve(database_url=url)
    told(client, lines(3), **KEY)

    response = client.post(PATH, json=other, headers=KEY)
    client.post(PATH, json=other, headers={"Idempotency-Key": "key-2"})
    before = rows(engine_of(client))
    turned = client.post(PATH, json=lines(3), headers={"Idempotency-Key": "key-2"})

    assert response.status_code == 422
    assert response.json == {
        "type": "/problems/idempotency-key-reused",
        "title": "idempotency key reused",
        "status": 422,
        "detail": "This Idempotency-Key was used before with another request.",
    }
    assert turned.json == response.json
    assert rows(engine_of(client)) == before


def test_without_a_key_every_request_is_new(client: FlaskClient, engine: Engine) -> None:
    """Nothing else about two requests makes them the same."""
    told(client, lines(3))
    told(client, lines(3))

    assert rows(engine) == (6, 6)


def test_a_request_that_comes_eight_times_at_once_is_taken_once(
    serve: Serve, database_url: str, outside: Engine
) -> None:
    """On PostgreSQL the first one wins and the others wait for it: all get its addresses."""
    application = serve(database_url=database_url).application

    def post(_: int) -> tuple[int, bytes]:
        response = application.test_client().post(PATH, json=lines(100), headers=KEY)
        return response.status_code, response.data

    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(post, range(8)))

    assert {status for status, _ in answers} == {202}
    assert len(answers) == 1
    assert rows(outside) == (100, 100)


@pytest.mark.usefixtures("worker")
def test_lines_that_were_waited_for_are_answered_with_their_outcomes(client: FlaskClient) -> None:
    """200 once nothing is pending: served, waiting, refused by a rule or by the contract."""
    batch = {"batchref": "batch-1", "sku": "LAMP", "qty": 10, "eta": "2030-01-31"}
    client.post("/v1/batches", json=batch, headers=WAIT)

    response = client.post(
        PATH,
        json={"lines": [line(0), line(1, qty=11), line(2, sku="SOFA"), line(3, qty=0)]},
        headers=WAIT,
    )

    assert response.status_code == 200
    assert response.headers["Preference-Applied"] == "wait=10"
    assert "Retry-After" not in response.headers
    assert response.json is not None
    answers = response.json["lines"]
    known = [
        {"id": answer["id"], "location": f"/v1/commands/{answer['id']}"} for answer in answers[:3]
    ]
    assert answers == [
        {**line(0), **known[0], "status": "allocated", "batchref": "batch-1", "eta": "2030-01-31"},
        {**line(1, qty=11), **known[1], "status": "waiting", "batchref": None, "eta": None},
        {
            **known[2],
            "status": "rejected",
            "problem": {
                "type": "/problems/unknown-sku",
                "title": "unknown sku",
                "status": 409,
                "detail": "There is no product with this sku.",
                "sku": "SOFA",
                "index": 2,
                "errors": [{"field": "sku", "problem": "unknown sku"}],
            },
        },
        rejected(3, ("qty", "the value is less than the minimum of 1")),
    ]
    assert client.get(answers[2]["location"]).json["status"] == "rejected"  # type: ignore[index]


def test_outcomes_are_told_as_far_as_they_are_known_in_time(
    client: FlaskClient, engine: Engine, idle_worker: Worker
) -> None:
    """202 while something is pending; asking takes one statement, however many lines there are."""
    client.post("/v1/batches", json={"batchref": "batch-1", "sku": "LAMP", "qty": 10})
    body = lines(3)
    first = told(client, body, **KEY)
    idle_worker.decide_all()
    with engine.begin() as connection:
        undecided = {"status": "pending", "outcome": None, "decided_at": None}
        second = commands.c.id == UUID(first[1]["id"])
        connection.execute(commands.update().where(second).values(undecided))
    asked: list[str] = []

    def note(_connection: Any, _cursor: Any, statement: str, *_rest: Any) -> None:
        if threading.current_thread() is threading.main_thread():  # the request's
            asked.append(statement)

    event.listen(engine_of(client), "after_cursor_execute", note)
    response = client.post(PATH, json=body, headers=KEY | {"Prefer": "wait=0"})

    assert response.status_code == 202
    assert response.headers["Retry-After"] == "1"
    assert response.json is not None
    statuses = [answer["status"] for answer in response.json["lines"]]
    assert statuses == ["allocated", "pending", "allocated"]
    assert sum("commands.status !=" in statement for statement in asked) == 1


def test_while_commands_are_put_off_so_are_many_lines(serve: Serve, sqlite_url: str) -> None:
    """503, and nothing of them is saved; a repeat of what was taken is answered."""
    client = serve(database_url=sqlite_url, max_pending="3")
    first = told(client, lines(5), **KEY)
    state.of(client.application).load_shedder._look_again = 0.0

    refused = client.post(PATH, json=lines(5))
    repeat = told(client, lines(5), **KEY)

    assert refused.status_code == 503
    assert refused.json is not None
    assert refused.json["title"] == "overloaded"
    assert repeat == first
    assert rows(engine_of(client)) == (5, 5)


def test_many_lines_are_one_request_to_the_rate_limit(serve: Serve, sqlite_url: str) -> None:
    """Their number is bounded by the request's size and by what may be pending."""
    client = serve(database_url=sqlite_url, rate_limit="5")

    statuses = [client.post(PATH, json=lines(6)).status_code for _ in range(5)]

    assert statuses == [202] * 5


def test_of_two_lines_about_the_same_order_and_sku_the_second_is_refused(
    client: FlaskClient, worker: Worker
) -> None:
    batch = {"batchref": "b1", "sku": "LAMP", "qty": 10}
    client.post("/v1/batches", json=batch, headers=WAIT)
    body = {"lines": [line(1, qty=2), line(1, qty=2), line(2), line(1, qty=3)]}

    answers = told(client, body, **WAIT)

    assert [answer["status"] for answer in answers] == [
        "allocated",
        "rejected",
        "allocated",
        "rejected",
    ]
    assert answers[1] == {
        "status": "rejected",
        "problem": {
            "type": "/problems/line-twice",
            "title": "line twice",
            "status": 409,
            "detail": "An earlier line of the request has the same order and sku.",
            "index": 1,
            "orderid": "order-1",
            "sku": "LAMP",
            "errors": [{"field": "orderid", "problem": "line twice"}],
        },
    }
    shown: Any = client.get("/v1/batches/b1").json
    assert shown["allocated"] == 3
