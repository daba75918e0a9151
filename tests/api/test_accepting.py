"""A 202 means that the command is on record and on its way, both or neither."""

from collections.abc import Iterator
from typing import Any

import pytest
import structlog
from flask.testing import FlaskClient
from sqlalchemy import Connection, Engine, ExceptionContext, event, func, select, text

from allocation.adapters.sql import database
from allocation.adapters.sql.tables import commands, outbox
from tests.api.conftest import Serve, Worker, engine_of

CHAIR = {"batchref": "batch-1", "sku": "RED-CHAIR", "qty": 10, "eta": "2030-01-31"}


@pytest.fixture
def outside(database_url: str) -> Iterator[Engine]:
    """A PostgreSQL database, seen from outside the application."""
    made = database.engine(database_url)
    yield made
    made.dispose()


def rows(engine: Engine) -> tuple[int, int]:
    """How many commands and how many rows of the outbox there are."""
    with engine.connect() as connection:
        counts = [
            connection.scalar(select(func.count()).select_from(table)) or 0
            for table in (commands, outbox)
        ]
    return counts[0], counts[1]


def test_an_accepted_command_is_answered_with_where_to_ask_for_it(client: FlaskClient) -> None:
    """202 at once, before anything is decided."""
    response = client.post("/v1/batches", json=CHAIR)

    assert response.status_code == 202
    assert response.json is not None
    command_id = response.json["id"]
    assert response.json == {"id": command_id, "status": "pending"}
    assert response.headers["Location"] == f"/v1/commands/{command_id}"
    assert response.headers["Retry-After"] == "1"


def test_a_command_can_be_followed_to_its_outcome(client: FlaskClient, idle_worker: Worker) -> None:
    """Its address tells that it is pending, and later what came of it."""
    location = client.post("/v1/batches", json=CHAIR).headers["Location"]

    before = client.get(location)
    idle_worker.decide_all()
    after = client.get(location)

    assert before.json is not None
    assert after.json is not None
    assert (before.json["status"], before.json["outcome"]) == ("pending", None)
    assert before.headers["Retry-After"] == "1"
    assert after.json == before.json | {
        "command": "allocation.create_batch",
        "status": "succeeded",
        "outcome": {"status": "created", "batchref": "batch-1"},
        "decided_at": after.json["decided_at"],
    }
    assert "Retry-After" not in after.headers


def test_a_command_is_accepted_together_with_its_outbox_row(
    client: FlaskClient, engine: Engine
) -> None:
    """What the relay sends is the command, under the id that the caller was told."""
    response = client.post("/v1/batches", json=CHAIR)

    with engine.connect() as connection:
        sent = connection.execute(select(outbox.c.id, outbox.c.name, outbox.c.body)).all()
    assert response.json is not None
    assert [(str(row.id), row.name, row.body) for row in sent] == [
        (response.json["id"], "allocation.create_batch", CHAIR)
    ]
    assert rows(engine) == (1, 1)


def test_a_connection_that_dies_while_accepting_leaves_nothing_behind(
    serve: Serve, database_url: str, outside: Engine
) -> None:
    """Cut off once the rows are written, the caller hears 503 and none of them stays."""
    client = serve(database_url=database_url)

    def cut(connection: Connection, _cursor: Any, statement: str, *_rest: Any) -> None:
        if statement.startswith("EXECUTE"):
            session = connection.connection.driver_connection.info.backend_pid  # type: ignore[union-attr]
            with outside.connect() as other:
                other.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": session})

    event.listen(engine_of(client), "after_cursor_execute", cut)
    response = client.post("/v1/batches", json=CHAIR)

    assert response.status_code == 503
    assert response.headers["Retry-After"] == "2"
    assert rows(outside) == (0, 0)


def test_a_command_that_meets_a_lock_is_tried_once_more_and_then_put_off(
    serve: Serve, database_url: str, outside: Engine
) -> None:
    """503 in the end, with nothing saved: the caller tries again later."""
    url = f"{database_url}?options=-c%20lock_timeout%3D100ms"
    client = serve(database_url=url)
    failures: list[ExceptionContext] = []
    event.listen(engine_of(client), "handle_error", failures.append)

    with outside.connect() as other:
        other.execute(text("LOCK TABLE commands IN ACCESS EXCLUSIVE MODE"))
        response = client.post("/v1/batches", json=CHAIR)

    assert response.status_code == 503
    assert sum("INSERT INTO commands" in str(failure.statement) for failure in failures) == 2
    assert rows(outside) == (0, 0)


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("POST", "/v1/batches"),
        ("GET", "/v1/batches/batch-1"),
        ("GET", "/v1/commands/7c5aa1d2-1f6f-4bd1-8f3c-0a7f5a0d6a11"),
        ("GET", "/readyz"),
    ],
)
def test_a_database_that_is_away_is_a_problem_of_the_moment(
    method: str, path: str, serve: Serve
) -> None:
    """503 with a time to try again, whatever was asked."""
    client = serve(database_url="postgresql://nobody@127.0.0.1:1/nowhere")

    response = client.open(path, method=method, json=CHAIR if method == "POST" else None)

    assert response.status_code == 503
    assert response.headers["Retry-After"] == "2"


def test_a_fault_of_ours_is_a_problem_with_the_name_that_the_log_has_for_it(
    client: FlaskClient,
) -> None:
    """The caller sees an incident's id; what happened is in the log alone."""

    @client.application.get("/fault")
    def fault() -> str:
        raise RuntimeError("the secret cause")

    with structlog.testing.capture_logs() as logged:
        response = client.get("/fault")

    assert response.status_code == 500
    assert response.json is not None
    assert "secret" not in response.text
    incidents = [line["incident"] for line in logged if line["log_level"] == "error"]
    assert [f"urn:uuid:{incident}" for incident in incidents] == [response.json["instance"]]


def test_engines_are_made_only_when_they_are_needed(serve: Serve) -> None:
    """Making the application opens no connection: its processes are forked before they connect."""
    client = serve(database_url="postgresql://nobody@127.0.0.1:1/nowhere")

    assert client.get("/healthz").json == {"status": "alive"}
