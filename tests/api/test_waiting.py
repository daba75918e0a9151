"""`Prefer: wait=N` answers with the outcome."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, select

from allocation.adapters.sql.tables import commands
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, CreateBatch
from allocation.entrypoints.api import state
from allocation.entrypoints.api.http.waiting import Outcomes, OutcomeWaiter
from allocation.service_layer.execution import execute, fail
from allocation.service_layer.unit_of_work import Message
from tests.api.conftest import Serve, Worker
from tests.waiting import eventually

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
    wait_by(client, OutcomeWaiter(0, state.of(client.application).commits))

    response = client.post(path, json=body, headers={"Prefer": asked})

    assert response.status_code == 202
    assert response.headers.get("Preference-Applied") == applied


def test_a_request_that_a_stop_sends_away_does_not_claim_that_it_waited(
    client: FlaskClient,
) -> None:
    state.of(client.application).waiter.stop()

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


def test_a_request_waits_until_the_last_of_its_commands_is_decided(
    client: FlaskClient, idle_worker: Worker, engine: Engine
) -> None:
    idle_worker.decide(CreateBatch("batch-1", "LAMP", 10))
    lines = [{"orderid": f"order-{number}", "sku": "LAMP", "qty": 1} for number in range(3)]
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(
            client.post, "/v1/allocations", json={"lines": lines}, headers=WAIT
        )
        accepted = eventually(lambda: pending(engine), what="the commands")
        for command_id, body in accepted[:2]:
            decide(engine, command_id, body)
        over_early = waiting.done()
        decide(engine, *accepted[2])
        response = waiting.result()

    assert not over_early
    assert response.status_code == 200
    assert response.json is not None
    assert [line["status"] for line in response.json["lines"]] == ["allocated"] * 3


def pending(engine: Engine) -> list[tuple[UUID, Any]]:
    asked = select(commands.c.id, commands.c.body).where(commands.c.status == "pending")
    with engine.connect() as connection:
        return [(row.id, row.body) for row in connection.execute(asked)]


def decide(engine: Engine, command_id: UUID, line: dict[str, Any]) -> None:
    execute(Message(command_id, Allocate(**line), command_id), SqlUnitOfWork(engine))


def test_what_is_decided_before_the_wait_begins_is_not_missed(
    client: FlaskClient, idle_worker: Worker, engine: Engine
) -> None:
    waiter = state.of(client.application).waiter
    [command_id] = ids = [UUID(int=1)]

    with waiter.expecting(ids) as expected:
        execute(Message(command_id, CreateBatch("b", "LAMP", 1), command_id), SqlUnitOfWork(engine))
        assert expected is not None
        eventually(lambda: not expected.pending, what="the outcome")
        outcomes = expected.wait(0)

    assert (outcomes.decided[command_id]["status"], outcomes.waited) == ("succeeded", True)


def test_two_requests_may_wait_for_one_command(
    client: FlaskClient, idle_worker: Worker, engine: Engine
) -> None:
    body = {"batchref": "batch-1", "sku": "LAMP", "qty": 10}
    headers = WAIT | {"Idempotency-Key": "key-1"}
    waiter = state.of(client.application).waiter
    with ThreadPoolExecutor(2) as threads:
        waiting = [
            threads.submit(client.post, "/v1/batches", json=body, headers=headers) for _ in range(2)
        ]
        eventually(lambda: waiter.waiting == 2 and pending(engine), what="two that wait")
        idle_worker.decide_all()
        statuses = [each.result().status_code for each in waiting]

    assert statuses == [201, 201]
    assert waiter.waiting == 0


def test_a_request_that_finds_no_place_is_answered_at_once_and_a_stop_ends_the_wait(
    client: FlaskClient,
) -> None:
    waiter = OutcomeWaiter(1, state.of(client.application).commits)
    wait_by(client, waiter)
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(client.post, ONE[0], json=ONE[1], headers=WAIT)
        eventually(lambda: waiter.waiting, what="one that waits")
        another = client.post(ONE[0], json={**ONE[1], "orderid": "order-2"}, headers=WAIT)
        waits_on = not waiting.done()
        waiter.stop()
        stopped = waiting.result()

    assert waits_on
    assert [each.status_code for each in (another, stopped)] == [202, 202]
    assert "Preference-Applied" not in another.headers
    assert "Preference-Applied" not in stopped.headers


def test_an_outcome_that_can_not_be_asked_for_is_not_known(serve: Serve) -> None:
    """The command is safe already: a database that is away now means 202, no error."""
    client = serve(database_url="postgresql://nobody@127.0.0.1:1/nowhere")

    with state.of(client.application).waiter.expecting([UUID(int=1)]) as expected:
        assert expected is not None
        outcomes = expected.wait(1)

    assert outcomes == Outcomes({}, waited=True)
