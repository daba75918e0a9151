"""The same Idempotency-Key makes the same request safe to repeat."""

from concurrent.futures import ThreadPoolExecutor

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, func, select, update

from allocation.adapters.sql import database
from allocation.adapters.sql.tables import commands, outbox
from tests.api.conftest import Serve

LINE = {"orderid": "order-1", "sku": "RED-CHAIR", "qty": 3}


def count(engine: Engine) -> tuple[int, int]:
    """How many commands and how many rows of the outbox there are."""
    with engine.connect() as connection:
        of_commands = connection.scalar(select(func.count()).select_from(commands)) or 0
        of_outbox = connection.scalar(select(func.count()).select_from(outbox)) or 0
    return of_commands, of_outbox


def test_a_repeated_request_is_the_same_command(client: FlaskClient, engine: Engine) -> None:
    """Same answer, same address, one command."""
    headers = {"Idempotency-Key": "key-1"}

    first = client.post("/v1/allocations", json=LINE, headers=headers)
    second = client.post("/v1/allocations", json={**LINE, "qty": 3.0}, headers=headers)

    assert (second.status_code, second.json) == (202, first.json)
    assert second.headers["Location"] == first.headers["Location"]
    assert count(engine) == (1, 1)


def test_without_a_key_every_request_is_a_command_of_its_own(
    client: FlaskClient, engine: Engine
) -> None:
    """Nothing else about two requests makes them the same."""
    locations = {client.post("/v1/allocations", json=LINE).headers["Location"] for _ in range(2)}

    assert len(locations) == 2
    assert count(engine) == (2, 2)


def test_a_key_that_comes_with_another_body_is_refused(client: FlaskClient, engine: Engine) -> None:
    """422, and the first request keeps its meaning."""
    headers = {"Idempotency-Key": "key-1"}
    client.post("/v1/allocations", json=LINE, headers=headers)

    response = client.post("/v1/allocations", json={**LINE, "qty": 4}, headers=headers)

    assert response.status_code == 422
    assert response.json == {
        "type": "/problems/idempotency-key-reused",
        "title": "idempotency key reused",
        "status": 422,
        "detail": "This Idempotency-Key was used before with another request.",
    }
    assert count(engine) == (1, 1)


def test_a_repeat_of_what_an_older_release_accepted_is_the_same_command(
    client: FlaskClient, engine: Engine
) -> None:
    headers = {"Idempotency-Key": "key-1"}
    odd = LINE | {"orderid": "order-1 "}
    first = client.post("/v1/allocations", json=LINE, headers=headers)
    with engine.begin() as connection:  # as a release without the rule accepted it
        connection.execute(update(commands).values(body=odd))

    again = client.post("/v1/allocations", json=odd, headers=headers)
    new = client.post("/v1/allocations", json=odd, headers={"Idempotency-Key": "key-2"})

    assert (again.status_code, again.json) == (202, first.json)
    assert new.status_code == 422
    assert count(engine) == (1, 1)


def test_a_key_means_another_command_at_another_address(client: FlaskClient) -> None:
    """Method and path belong to the key: a client may number its requests."""
    headers = {"Idempotency-Key": "key-1"}

    locations = {
        client.patch("/v1/batches/batch-1", json={"qty": 1}, headers=headers).headers["Location"],
        client.patch("/v1/batches/batch-2", json={"qty": 1}, headers=headers).headers["Location"],
        client.delete("/v1/allocations/order-1/LAMP", headers=headers).headers["Location"],
    }

    assert len(locations) == 3


def test_a_key_belongs_to_its_caller(serve: Serve, sqlite_url: str) -> None:
    """Two callers who number their requests alike don't meet."""
    locations = set()
    for api_key in ("one", "two"):
        client = serve(database_url=sqlite_url, api_key=api_key)
        headers = {"Idempotency-Key": "key-1", "Authorization": f"Bearer {api_key}"}
        response = client.post("/v1/allocations", json=LINE, headers=headers)
        locations.add(response.headers["Location"])

    assert len(locations) == 2


@pytest.mark.parametrize("key", ["k", "a key with 'signs' ~", "k" * 255])
def test_a_key_is_any_printable_ascii(key: str, client: FlaskClient) -> None:
    """One character, and 255 of them."""
    response = client.post("/v1/allocations", json=LINE, headers={"Idempotency-Key": key})

    assert response.status_code == 202


@pytest.mark.parametrize("key", ["", "k" * 256, "clé", "a\tb", "\x7f"])
def test_a_key_that_makes_no_sense_is_refused(
    key: str, client: FlaskClient, engine: Engine
) -> None:
    """400: better than to take a broken key for no key."""
    response = client.post("/v1/allocations", json=LINE, headers={"Idempotency-Key": key})

    assert response.status_code == 400
    assert response.json is not None
    assert response.json["type"] == "/problems/malformed-idempotency-key"
    assert count(engine) == (0, 0)


def test_a_request_that_comes_eight_times_at_once_is_one_command(
    serve: Serve, database_url: str
) -> None:
    """On PostgreSQL the first insert wins and the others wait for it: all get its address."""
    application = serve(database_url=database_url).application

    def post(_: int) -> tuple[int, str]:
        response = application.test_client().post(
            "/v1/allocations", json=LINE, headers={"Idempotency-Key": "key-1"}
        )
        return response.status_code, response.headers["Location"]

    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(post, range(8)))

    engine = database.engine(database_url)
    assert {status for status, _ in answers} == {202}
    assert len(answers) == 1
    assert count(engine) == (1, 1)
    engine.dispose()
