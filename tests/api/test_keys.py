"""API keys: made and revoked by the command line, asked for by the API."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, select, update

from allocation.adapters.api_keys import ApiKeys
from allocation.adapters.tables import api_keys, commands, outbox
from tests.api.conftest import Serve
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually

LINE = {"orderid": "order-1", "sku": "LAMP", "qty": 3}
Run = Callable[..., Any]


@pytest.fixture
def run(processes: Callable[..., Process], sqlite_url: str, tmp_path: Path) -> Run:
    """What `allocation keys ...` prints; it has to end with this exit status."""
    env = {"ALLOCATION_DATABASE_URL": sqlite_url, "ALLOCATION_STATE_DIR": str(tmp_path)}

    def start(*arguments: str, status: int = 0) -> str:
        command = [sys.executable, "-m", "allocation.cli", "keys", *arguments]
        process = processes(command, name="keys", env=env)
        assert process.wait() == status, process.logs()
        return process.logs()

    return start


@pytest.fixture
def client(serve: Serve, sqlite_url: str) -> FlaskClient:
    """A client of an application that others can reach."""
    return serve(database_url=sqlite_url, host="0.0.0.0")


def bearer(text: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {text}"}


def test_a_key_is_shown_once_and_only_its_hash_is_kept(run: Run, engine: Engine) -> None:
    """Neither the list nor the database has it."""
    made = json.loads(run("create", "shop", "--json"))
    listed = run("list", "--json")

    secret = made["key"].split("_", 2)[2]
    with engine.connect() as connection:
        kept = [str(cell) for row in connection.execute(select(api_keys)) for cell in row]
    assert len(secret) > 40
    assert not any(secret in text for text in [listed, *kept])
    [row] = json.loads(listed)
    assert (row["name"], row["scopes"], row["revoked_at"]) == ("shop", "read write", None)
    assert made["key"].startswith(f"alloc_{row['id']}_")


def test_a_key_opens_what_its_scopes_say(client: FlaskClient, engine: Engine) -> None:
    """`read` for GET, `write` for the others."""
    _, reads = ApiKeys(engine).create("reader", ["read"])
    _, writes = ApiKeys(engine).create("writer", ["write"])

    got = {
        name: (
            client.get("/v1/products/LAMP", headers=headers).status_code,
            client.post("/v1/allocations", json=LINE, headers=headers).status_code,
        )
        for name, headers in {
            "reads": bearer(reads),
            "writes": bearer(writes),
            "wrong secret": bearer(reads[:-1] + ("A" if reads[-1] != "A" else "B")),
            "no such key": bearer("alloc_000000000000_" + "x" * 43),
            "nonsense": bearer("alloc_\u00fc_"),
            "none": {},
        }.items()
    }

    assert got == {
        "reads": (404, 403),
        "writes": (403, 202),
        "wrong secret": (401, 401),
        "no such key": (401, 401),
        "nonsense": (401, 401),
        "none": (401, 401),
    }
    refused = client.post("/v1/allocations", json=LINE, headers=bearer(reads)).json
    assert refused is not None
    assert refused["title"] == "missing scope"
    assert "write" in refused["detail"]


def test_the_key_of_the_settings_has_all_rights_beside_the_others(
    serve: Serve, sqlite_url: str, engine: Engine
) -> None:
    """And each key is a caller of its own, also to an Idempotency-Key."""
    _, other = ApiKeys(engine).create("other", ["read", "write"])
    client = serve(database_url=sqlite_url, api_key="of the settings")
    same = {"Idempotency-Key": "key-1"}

    locations = {
        client.post("/v1/allocations", json=LINE, headers=bearer(key) | same).headers["Location"]
        for key in ("of the settings", other, other)
    }

    assert len(locations) == 2


def test_a_revoked_key_is_refused_within_seconds(
    run: Run, client: FlaskClient, engine: Engine
) -> None:
    """Without a restart; an id that is no valid key's is told."""
    key, text = ApiKeys(engine).create("shop", ["read"])
    ApiKeys(engine).create("another", ["read"])
    assert client.get("/v1/products/LAMP", headers=bearer(text)).status_code == 404

    run("revoke", key.id)

    eventually(
        lambda: client.get("/v1/products/LAMP", headers=bearer(text)).status_code == 401,
        within=5,
        what="the key refused",
    )
    assert "no valid key has the id" in run("revoke", key.id, status=1)


def test_while_the_database_is_away_nobody_is_let_in(serve: Serve) -> None:
    """A key that can't be looked up is not good."""
    client = serve(
        database_url="postgresql://me:secret@127.0.0.1:1/none", host="0.0.0.0", api_key="mine"
    )

    assert client.get("/v1/products/LAMP", headers=bearer("alloc_1_2")).status_code == 503


def test_beyond_loopback_the_api_starts_with_a_key_of_the_database(
    processes: Callable[..., Process], sqlite_url: str, engine: Engine, tmp_path: Path
) -> None:
    """And refuses to start without any."""
    env = {
        "ALLOCATION_DATABASE_URL": sqlite_url,
        "ALLOCATION_STATE_DIR": str(tmp_path),
        "ALLOCATION_HOST": "0.0.0.0",
        "ALLOCATION_PORT": str(free_ports(1)[0]),
    }
    command = [sys.executable, "-m", "allocation.cli", "api"]
    keyless = processes(command, name="keyless", env=env)
    assert keyless.wait() == 1

    ApiKeys(engine).create("shop", ["read"])
    api = processes(command, name="api", env=env)

    api.wait_for_log("The API is ready")
    assert "there is no API key" in keyless.logs()


def test_a_caller_who_asks_too_often_is_told_to_wait(serve: Serve, sqlite_url: str) -> None:
    """429, for a second; others go on."""
    client = serve(database_url=sqlite_url, api_key="mine", rate_limit="10", api_workers="1")

    codes = [client.get("/metrics", headers=bearer("mine")).status_code for _ in range(60)]

    last = client.get("/metrics", headers=bearer("mine"))
    assert codes[:10] == [200] * 10
    assert (last.status_code, last.headers["Retry-After"]) == (429, "1")
    assert client.get("/healthz").status_code == 200
    eventually(
        lambda: client.get("/metrics", headers=bearer("mine")).status_code == 200,
        what="the caller to be served again",
    )


def test_whoever_guesses_keys_is_told_to_wait(serve: Serve, sqlite_url: str) -> None:
    """While who has a key is served, from the same address too."""
    client = serve(database_url=sqlite_url, api_key="mine")

    codes = {client.get("/metrics", headers=bearer(f"guess-{n}")).status_code for n in range(40)}

    assert codes == {401, 429}
    assert client.get("/metrics", headers=bearer("mine")).status_code == 200


def test_while_the_relay_is_far_behind_commands_are_put_off(
    serve: Serve, sqlite_url: str, engine: Engine
) -> None:
    """503 with Retry-After; nothing is saved, reads go on, and it ends by itself."""
    client = serve(database_url=sqlite_url, max_outbox_age="30")
    client.post("/v1/allocations", json=LINE)
    with engine.begin() as connection:
        a_minute_ago = datetime.now(UTC) - timedelta(minutes=1)
        connection.execute(update(outbox).values(created_at=a_minute_ago))

    def put_off() -> bool:
        return client.post("/v1/allocations", json=LINE).status_code == 503

    eventually(put_off, what="commands put off")
    response = client.post("/v1/allocations", json=LINE)
    with engine.connect() as connection:
        before = len(connection.execute(select(commands.c.id)).all())
    client.post("/v1/allocations", json=LINE)
    read = client.get("/v1/products/LAMP").status_code
    with engine.begin() as connection:
        after = len(connection.execute(select(commands.c.id)).all())
        connection.execute(update(outbox).values(sent_at=datetime.now(UTC)))

    assert response.json is not None
    assert (response.json["title"], response.headers["Retry-After"]) == ("overloaded", "5")
    assert "The relay is 6" in response.json["detail"]
    assert (after, read) == (before, 404)
    eventually(lambda: not put_off(), what="commands taken again")


def test_while_too_many_commands_are_pending_further_ones_are_put_off(
    serve: Serve, sqlite_url: str
) -> None:
    """The workers have to catch up first."""
    client = serve(database_url=sqlite_url, max_pending="3")

    def put_off() -> bool:
        return client.post("/v1/allocations", json=LINE).status_code == 503

    eventually(put_off, what="commands put off")
    problem = client.post("/v1/allocations", json=LINE).json
    assert problem is not None
    assert problem["detail"] == "More than 3 commands are pending."
