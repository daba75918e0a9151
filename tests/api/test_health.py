"""Health, readiness and figures."""

import re
import socket
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, text, update

from allocation.adapters.sql import migrations
from allocation.adapters.sql.tables import commands, outbox
from tests.api.conftest import Serve, Worker

LINE = {"orderid": "order-1", "sku": "LAMP", "qty": 3}


@pytest.fixture
def silent_port() -> Iterator[int]:
    """A port that takes connections and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_ready_service_says_how_far_the_relay_is_behind(
    client: FlaskClient, engine: Engine
) -> None:
    """Rows to send, and the age of the oldest."""
    empty = client.get("/readyz").json
    client.post("/v1/allocations", json=LINE)
    client.post("/v1/allocations", json=LINE)
    with engine.begin() as connection:
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        connection.execute(
            update(outbox).where(outbox.c.position == 1).values(created_at=an_hour_ago)
        )

    behind = client.get("/readyz").json

    assert empty == {"status": "ready", "unsent": 0, "oldest_unsent_seconds": 0.0}
    assert behind is not None
    assert behind["unsent"] == 2
    assert 3600 <= behind["oldest_unsent_seconds"] < 3660


def test_a_service_whose_relay_has_sent_everything_is_not_behind(
    client: FlaskClient, engine: Engine
) -> None:
    """Sent rows are history."""
    client.post("/v1/allocations", json=LINE)
    with engine.begin() as connection:
        connection.execute(update(outbox).values(sent_at=datetime.now(UTC)))

    assert client.get("/readyz").json == {
        "status": "ready",
        "unsent": 0,
        "oldest_unsent_seconds": 0.0,
    }


def test_a_service_on_another_schema_is_not_ready(client: FlaskClient, sqlite_url: str) -> None:
    """503 that says what to do; ready again once it is done."""
    migrations.downgrade(sqlite_url)

    before = client.get("/readyz")
    migrations.upgrade(sqlite_url)
    after = client.get("/readyz")

    assert (before.status_code, after.status_code) == (503, 200)
    assert before.json is not None
    assert before.json["type"] == "/problems/not-ready"
    assert "allocation migrate" in before.json["detail"]


def test_a_database_that_falls_silent_is_found_out_in_time(
    serve: Serve, silent_port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes the connection and says nothing: not ready, and the process lives on."""
    monkeypatch.setattr("allocation.entrypoints.api.http.database_state.TIMEOUT", 0.2)
    url = f"postgresql://nobody@127.0.0.1:{silent_port}/nowhere"
    # The settings' key needs no database: without it nobody could say who may see the figures.
    client = serve(database_url=url, api_key="mine")

    began = time.monotonic()
    ready = client.get("/readyz")
    figures = client.get("/metrics", headers={"Authorization": "Bearer mine"})
    took = time.monotonic() - began

    assert took < 2
    assert ready.status_code == 503
    assert ready.json is not None
    assert ready.json["detail"] == "The database did not respond within 0.2 s."
    assert "allocation_database_up 0.0" in figures.text
    assert client.get("/healthz").status_code == 200


def figure(text: str, name: str) -> float:
    """The value of one line of the figures."""
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    assert found, f"no {name} in {text}"
    return float(found[1])


def test_the_figures_count_requests_by_route_and_name_no_id(client: FlaskClient) -> None:
    """Templates and known methods only: no caller can make new series."""
    for number in range(3):
        client.get(f"/v1/products/SECRET-{number}")
    client.get("/SECRET")
    client.open("/v1/batches", method="SECRET")
    client.post("/v1/allocations", json=LINE)

    text = client.get("/metrics").text

    requests = "allocation_http_requests_total"
    product = 'method="GET",route="/v1/products/<sku>",status="4xx"'
    assert figure(text, f"{requests}{{{product}}}") == 3
    assert figure(text, f'{requests}{{method="GET",route="none",status="4xx"}}') == 1
    assert figure(text, f'{requests}{{method="other",route="none",status="4xx"}}') == 1
    assert figure(text, 'allocation_accept_seconds_count{command="allocation.allocate"}') == 1
    assert figure(text, "allocation_database_up") == 1
    assert figure(text, "allocation_outbox_unsent") == 1
    assert figure(text, "allocation_outbox_oldest_unsent_seconds") < 60
    assert "SECRET" not in text


def test_the_figures_tell_what_is_pending_and_what_waits(
    client: FlaskClient, engine: Engine, idle_worker: Worker
) -> None:
    """Commands without an outcome, with the oldest's age; lines that nothing can serve."""
    client.post("/v1/batches", json={"batchref": "b1", "sku": "LAMP", "qty": 3})
    for number in range(3):
        client.post("/v1/allocations", json=LINE | {"orderid": f"order-{number}"})
    idle_worker.decide_all()
    client.post("/v1/allocations", json=LINE | {"orderid": "late"})
    with engine.begin() as connection:
        is_pending = commands.c.status == "pending"
        an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
        connection.execute(update(commands).where(is_pending).values(accepted_at=an_hour_ago))

    text = client.get("/metrics").text

    assert figure(text, "allocation_lines_waiting") == 2
    assert figure(text, "allocation_commands_pending") == 1
    assert 3600 <= figure(text, "allocation_commands_oldest_pending_seconds") < 3660


SAID = "The database lacks the schema of this version: run `allocation migrate`."


def test_while_the_database_is_one_migration_behind_each_answer_says_what_to_do(
    client: FlaskClient, sqlite_url: str
) -> None:
    migrations.downgrade(sqlite_url, "0008")

    answers = [
        client.post("/v1/allocations", json=LINE),
        client.get("/v1/products/LAMP"),
        client.get("/v1/commands/00000000-0000-0000-0000-000000000001"),
    ]

    for answer in answers:
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
        assert answer.json is not None
        assert (answer.json["type"], answer.json["detail"]) == ("/problems/not-ready", SAID)
    migrations.upgrade(sqlite_url)


def test_requests_are_answered_as_soon_as_the_database_is_migrated(
    client: FlaskClient, sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("allocation.entrypoints.api.http.database_state.LOOK_EVERY", 0)
    migrations.downgrade(sqlite_url, "0008")
    before = client.post("/v1/allocations", json=LINE)

    migrations.upgrade(sqlite_url)

    assert (before.status_code, client.post("/v1/allocations", json=LINE).status_code) == (503, 202)


def test_a_page_of_a_database_that_is_behind_says_what_to_do_as_a_page(
    client: FlaskClient, sqlite_url: str
) -> None:
    migrations.downgrade(sqlite_url, "0008")

    client.application.test_client_class = FlaskClient
    page = client.application.test_client().get("/", headers={"Accept": "text/html"})

    assert (page.status_code, page.headers["Retry-After"]) == (503, "5")
    assert page.mimetype == "text/html"
    assert "allocation migrate" in page.text


def test_a_database_that_falls_behind_later_is_no_fault_of_ours(
    client: FlaskClient, sqlite_url: str
) -> None:
    assert client.post("/v1/allocations", json=LINE).status_code == 202

    migrations.downgrade(sqlite_url, "0008")  # without a column that accepting a command writes
    answer = client.post("/v1/allocations", json=LINE)

    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "5")
    assert answer.json is not None
    assert answer.json["detail"] == SAID


def test_a_database_of_a_later_release_is_worked_on(client: FlaskClient, engine: Engine) -> None:
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))

    assert client.get("/readyz").status_code == 200
    assert client.post("/v1/allocations", json=LINE).status_code == 202
