"""`Prefer: wait=N` answers with the outcome."""

import threading
import time
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, event, select

from allocation.adapters.sql.tables import commands
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate
from allocation.entrypoints.api import state
from allocation.entrypoints.api.http.waiting import Outcomes, OutcomeWaiter
from allocation.service_layer.execution import fail
from allocation.service_layer.unit_of_work import Message
from tests.api.conftest import Serve, Worker, engine_of

WAIT = {"Prefer": "wait=10"}


def post_batch(client: FlaskClient, **fields: Any) -> None:
    body = {"batchref": "batch-1", "sku": "LAMP", "qty": 10} | fields
    assert client.post("/v1/batches", json=body, headers=WAIT).status_code == 201


def post_line(client: FlaskClient, **fields: Any) -> None:
    body = {"orderid": "order-1", "sku": "LAMP", "qty": 3} | fields
    client.post("/v1/allocations", json=body, headers=WAIT)


def wait_by(client: FlaskClient, waiter: OutcomeWaiter) -> None:
    """Let the client's application wait by this waiter."""
    app = client.application
    state.install(app, replace(state.of(app), waiter=waiter))


@pytest.mark.usefixtures("worker")
def test_a_batch_that_was_waited_for_is_answered_with_201(client: FlaskClient) -> None:
    """The batch, and still the command's address."""
    body = {"batchref": "batch-1", "sku": "LAMP", "qty": 10, "eta": "2030-01-31"}

    response = client.post("/v1/batches", json=body, headers=WAIT)

    assert (response.status_code, response.json) == (201, {**body, "status": "created"})
    assert response.headers["Preference-Applied"] == "wait=10"
    assert "Retry-After" not in response.headers
    told = client.get(response.headers["Location"]).json
    assert told is not None
    assert told["status"] == "succeeded"


@pytest.mark.usefixtures("worker")
def test_a_line_that_is_served_is_answered_with_its_batch(client: FlaskClient) -> None:
    """201 with the batch and its ETA."""
    post_batch(client, eta="2030-01-31")

    line = {"orderid": "order-1", "sku": "LAMP", "qty": 3}
    response = client.post("/v1/allocations", json=line, headers=WAIT)

    assert response.status_code == 201
    assert response.json == {
        **line,
        "status": "allocated",
        "batchref": "batch-1",
        "eta": "2030-01-31",
    }


@pytest.mark.usefixtures("worker")
def test_a_line_that_nothing_can_serve_is_no_error(client: FlaskClient) -> None:
    """200: it waits."""
    post_batch(client)

    line = {"orderid": "order-1", "sku": "LAMP", "qty": 11}
    response = client.post("/v1/allocations", json=line, headers=WAIT)

    assert response.status_code == 200
    assert response.json == {**line, "status": "waiting", "batchref": None, "eta": None}


@pytest.mark.usefixtures("worker")
def test_a_changed_quantity_is_answered_with_200(client: FlaskClient) -> None:
    """Changed the first time, unchanged the second."""
    post_batch(client)

    answers = [client.patch("/v1/batches/batch-1", json={"qty": 7}, headers=WAIT) for _ in range(2)]

    assert [(answer.status_code, answer.json) for answer in answers] == [
        (200, {"batchref": "batch-1", "qty": 7, "status": "changed"}),
        (200, {"batchref": "batch-1", "qty": 7, "status": "unchanged"}),
    ]


@pytest.mark.usefixtures("worker")
def test_a_line_that_is_given_up_is_answered_with_200(client: FlaskClient) -> None:
    """And it is gone."""
    post_batch(client)
    post_line(client)

    response = client.delete("/v1/allocations/order-1/LAMP", headers=WAIT)

    assert response.status_code == 200
    assert response.json == {"orderid": "order-1", "sku": "LAMP", "status": "deallocated"}
    assert client.get("/v1/allocations/order-1").status_code == 404


REFUSED: list[tuple[str, str, dict[str, Any] | None, str, str, dict[str, Any]]] = [
    (
        "POST",
        "/v1/allocations",
        {"orderid": "order-2", "sku": "SOFA", "qty": 1},
        "unknown sku",
        "sku",
        {"sku": "SOFA"},
    ),
    (
        "POST",
        "/v1/allocations",
        {"orderid": "order-1", "sku": "LAMP", "qty": 4},
        "quantity differs",
        "qty",
        {"qty": 4, "known_qty": 3},
    ),
    (
        "POST",
        "/v1/batches",
        {"batchref": "batch-1", "sku": "SOFA", "qty": 1},
        "batchref taken",
        "batchref",
        {"batchref": "batch-1"},
    ),
    (
        "PATCH",
        "/v1/batches/batch-9",
        {"qty": 1},
        "unknown batchref",
        "batchref",
        {"batchref": "batch-9"},
    ),
    ("DELETE", "/v1/allocations/order-1/SOFA", None, "unknown sku", "sku", {"sku": "SOFA"}),
    (
        "DELETE",
        "/v1/allocations/order-9/LAMP",
        None,
        "unknown order line",
        "orderid",
        {"orderid": "order-9", "sku": "LAMP"},
    ),
]


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize(("method", "path", "body", "reason", "field", "facts"), REFUSED)
def test_a_refusal_is_a_conflict_that_names_its_reason(
    method: str,
    path: str,
    body: dict[str, Any] | None,
    reason: str,
    field: str,
    facts: dict[str, Any],
    client: FlaskClient,
) -> None:
    """409 with the rule, the field and the facts; the refusal is on record under the command."""
    post_batch(client)
    post_line(client)

    response = client.open(path, method=method, json=body, headers=WAIT)

    assert response.status_code == 409
    assert response.json is not None
    assert response.json == {
        "type": f"/problems/{reason.replace(' ', '-')}",
        "title": reason,
        "status": 409,
        "detail": response.json["detail"],
        "errors": [{"field": field, "problem": reason}],
        **facts,
    }
    assert client.get(response.json["type"]).status_code == 200
    told = client.get(response.headers["Location"]).json
    assert told is not None
    assert told["status"] == "rejected"


def test_a_command_that_nobody_could_decide_is_a_problem_of_ours(
    client: FlaskClient, engine: Engine
) -> None:
    """500, without what went wrong inside."""
    line: dict[str, Any] = {"orderid": "order-1", "sku": "LAMP", "qty": 3}
    headers = {"Idempotency-Key": "key-1"}
    accepted = client.post("/v1/allocations", json=line, headers=headers).json
    assert accepted is not None
    failed = Message(UUID(accepted["id"]), Allocate(**line), UUID(accepted["id"]))
    fail(failed, "RuntimeError: the secret cause", SqlUnitOfWork(engine))

    response = client.post("/v1/allocations", json=line, headers=headers | WAIT)

    assert response.status_code == 500
    assert response.json is not None
    assert response.json["type"] == "/problems/command-failed"
    assert "secret" not in response.text
    assert response.headers["Location"] == f"/v1/commands/{accepted['id']}"


def test_what_is_not_decided_in_time_is_pending(client: FlaskClient) -> None:
    """The plain 202, once the time is over."""
    began = time.monotonic()

    response = client.post(
        "/v1/allocations",
        json={"orderid": "order-1", "sku": "LAMP", "qty": 3},
        headers={"Prefer": "wait=1"},
    )

    assert time.monotonic() - began >= 1
    assert response.status_code == 202
    assert response.headers["Preference-Applied"] == "wait=1"
    assert response.headers["Retry-After"] == "1"


def test_a_repeat_of_a_decided_command_is_answered_without_waiting(
    client: FlaskClient, idle_worker: Worker
) -> None:
    """`wait=0` asks once: the outcome is there."""
    body = {"batchref": "batch-1", "sku": "LAMP", "qty": 10}
    headers = {"Idempotency-Key": "key-1"}
    client.post("/v1/batches", json=body, headers=headers)
    idle_worker.decide_all()

    response = client.post("/v1/batches", json=body, headers={**headers, "Prefer": "wait=0"})

    assert (response.status_code, response.json) == (
        201,
        {**body, "eta": None, "status": "created"},
    )


ONE = ("/v1/allocations", {"orderid": "order-1", "sku": "LAMP", "qty": 3})
MANY = ("/v1/allocations", {"lines": [{"orderid": "order-1", "sku": "LAMP", "qty": 3}]})


@pytest.mark.parametrize(("path", "body"), [ONE, MANY], ids=["one line", "many lines"])
@pytest.mark.parametrize(
    ("asked", "applied"),
    [
        ("wait=10", None),
        ("respond-async", "respond-async"),
        ("respond-async, wait=10", "respond-async"),
    ],
)
def test_a_request_that_found_no_place_to_wait_does_not_claim_that_it_waited(
    path: str, body: dict[str, Any], asked: str, applied: str | None, client: FlaskClient
) -> None:
    wait_by(client, OutcomeWaiter(engine_of(client), places=0))

    response = client.post(path, json=body, headers={"Prefer": asked})

    assert response.status_code == 202
    assert response.headers.get("Preference-Applied") == applied


def test_a_request_that_a_stop_sends_away_does_not_claim_that_it_waited(
    client: FlaskClient,
) -> None:
    waiter = OutcomeWaiter(engine_of(client), places=1)
    wait_by(client, waiter)
    waiter.stop()

    response = client.post(ONE[0], json=ONE[1], headers=WAIT)

    assert response.status_code == 202
    assert "Preference-Applied" not in response.headers


@pytest.mark.parametrize(("path", "body"), [ONE, MANY], ids=["one line", "many lines"])
@pytest.mark.usefixtures("worker")
def test_an_answer_that_tells_the_outcome_is_not_called_asynchronous(
    path: str, body: dict[str, Any], client: FlaskClient
) -> None:
    response = client.post(path, json=body, headers={"Prefer": "respond-async, wait=10"})

    assert response.status_code in (200, 409)
    assert response.headers["Preference-Applied"] == "wait=10"


def test_waiting_requests_leave_places_for_others_and_go_when_told(
    client: FlaskClient, engine: Engine
) -> None:
    """One place is taken: the next is not waited for. Stopping ends the wait at once."""
    client.post("/v1/allocations", json={"orderid": "order-1", "sku": "LAMP", "qty": 3})
    with engine.connect() as connection:
        command_id = connection.scalars(select(commands.c.id)).one()
    asked = threading.Event()
    event.listen(engine_of(client), "after_cursor_execute", lambda *_: asked.set())
    waiter = OutcomeWaiter(engine_of(client), places=1)
    waiting = threading.Thread(target=waiter.outcomes, args=([command_id], 30))
    waiting.start()
    assert asked.wait(10)

    began = time.monotonic()
    outcomes = waiter.outcomes([command_id], 30)
    waiter.stop()
    waiting.join(timeout=10)

    assert outcomes == Outcomes({}, waited=False)
    assert not waiting.is_alive()
    assert time.monotonic() - began < 10


def test_an_outcome_that_can_not_be_asked_for_is_not_known(serve: Serve) -> None:
    """The command is safe already: a database that is away now means 202, no error."""
    client = serve(database_url="postgresql://nobody@127.0.0.1:1/nowhere")

    outcomes = OutcomeWaiter(engine_of(client), places=1).outcomes([UUID(int=1)], 1)

    assert outcomes == Outcomes({}, waited=False)
