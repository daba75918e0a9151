"""API keys: made and revoked by the command line, asked for by the API."""

import http.client
import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, select
from werkzeug.test import TestResponse

from allocation.adapters.sql.api_keys import ApiKeys
from allocation.adapters.sql.tables import api_keys
from tests.api.conftest import Serve
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

LINE = {"orderid": "order-1", "sku": "LAMP", "qty": 3}
Run = Callable[..., Any]


@pytest.fixture
def run(processes: Callable[..., Process], sqlite_url: str, tmp_path: Path) -> Run:
    """What `allocation keys ...` prints; it has to end with this exit status."""
    env = {"ALLOCATION_DATABASE_URL": sqlite_url, "ALLOCATION_STATE_DIR": str(tmp_path)}

    def start(*arguments: str, status: int = 0) -> str:
        command = [sys.executable, "-m", "allocation", "keys", *arguments]
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
    made = json.loads(run("create", "--yes", "shop", "--json"))
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
    refused = client.post("/v1/allocations", json=LINE, headers=bearer(reads))
    assert refused.json == {
        "type": "/problems/missing-scope",
        "title": "missing scope",
        "status": 403,
        "detail": "This request requires a key with the scope write.",
        "scope": "write",
    }
    assert 'error="insufficient_scope", scope="write"' in refused.headers["WWW-Authenticate"]


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

    revoked = json.loads(run("revoke", key.id, "--json"))

    eventually(
        lambda: client.get("/v1/products/LAMP", headers=bearer(text)).status_code == 401,
        within=5,
        what="the key refused",
    )
    assert revoked == {"revoked": key.id}
    assert "no valid key has the id" in run("revoke", key.id, status=1)


def test_on_loopback_a_key_is_asked_for_once_there_is_one(
    serve: Serve, sqlite_url: str, engine: Engine
) -> None:
    """Until then whoever comes is let in, whatever he sends; revoking all opens nothing."""
    client = serve(database_url=sqlite_url)
    before = [
        client.get("/metrics", headers=headers).status_code for headers in ({}, bearer("any word"))
    ]
    key, text = ApiKeys(engine).create("shop", ["read"])

    eventually(lambda: client.get("/metrics").status_code == 401, within=5, what="the door closed")
    with_key = client.get("/metrics", headers=bearer(text)).status_code
    ApiKeys(engine).revoke(key.id)
    restarted = serve(database_url=sqlite_url)

    assert (before, with_key) == ([200, 200], 200)
    assert restarted.get("/metrics").status_code == 401
    assert restarted.get("/metrics", headers=bearer(text)).status_code == 401


def test_both_processes_of_the_server_follow_the_keys(
    processes: Callable[..., Process], run: Run, sqlite_url: str, tmp_path: Path
) -> None:
    """Made or revoked while they run; and no log line has a key."""
    [port] = free_ports(1)
    env = {
        "ALLOCATION_DATABASE_URL": sqlite_url,
        "ALLOCATION_STATE_DIR": str(tmp_path),
        "ALLOCATION_PORT": str(port),
        "ALLOCATION_LOG_LEVEL": "DEBUG",
    }
    api = processes([sys.executable, "-m", "allocation", "api"], name="api", env=env)
    api.wait_for_log("The API is ready")

    def statuses(text: str) -> set[int]:
        """What many new connections are told: both processes take their share."""
        found = set()
        for _ in range(20):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/v1/products/LAMP", headers=bearer(text))
            found.add(connection.getresponse().status)
            connection.close()
        return found

    made = json.loads(run("create", "--yes", "shop", "--scope", "read", "--json"))
    eventually(lambda: statuses("wrong") <= {401, 429}, within=5, what="a key asked for")
    with_key = statuses(made["key"])
    run("revoke", made["id"])
    eventually(lambda: statuses(made["key"]) <= {401, 429}, within=5, what="the key refused")

    assert with_key == {404}
    assert re.search(rf"answered .*caller={made['id']}", api.logs())
    assert re.search(rf"refused an API key .*key={made['id']}", api.logs())
    assert made["key"].split("_", 2)[2] not in api.logs()


def test_while_the_database_is_away_nobody_is_let_in(serve: Serve) -> None:
    """A key that can't be looked up is not good."""
    away = "postgresql://me:secret@127.0.0.1:1/none"
    reachable = serve(database_url=away, host="0.0.0.0", api_key="mine")
    looked_up = reachable.get("/metrics", headers=bearer("alloc_1_2")).status_code
    of_the_settings = reachable.get("/metrics", headers=bearer("mine")).status_code
    on_loopback = serve(database_url=away, host="127.0.0.1", api_key="").get("/metrics")

    assert (looked_up, of_the_settings, on_loopback.status_code) == (503, 200, 503)


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
    command = [sys.executable, "-m", "allocation", "api"]
    keyless = processes(command, name="keyless", env=env)
    assert keyless.wait() == 1

    ApiKeys(engine).create("shop", ["read"])
    api = processes(command, name="api", env=env)

    api.wait_for_log("The API is ready")
    assert "there is no API key" in keyless.logs()


def test_a_caller_who_asks_too_often_is_told_to_wait(serve: Serve, sqlite_url: str) -> None:
    """429, for a second; probes go on."""
    client = serve(database_url=sqlite_url, api_key="mine", rate_limit="10")

    def ask() -> TestResponse:
        return client.get("/v1/nothing", headers=bearer("mine"))

    def refused() -> TestResponse | None:
        response = ask()
        return response if response.status_code == 429 else None

    first = [ask().status_code for _ in range(10)]
    told = eventually(refused, what="a request refused")
    probe = client.get("/healthz").status_code

    assert first == [404] * 10
    assert (told.json or {})["title"] == "too many requests"
    assert told.headers["Retry-After"] == "1"
    assert probe == 200
    eventually(lambda: ask().status_code == 404, what="the caller to be served again")


def test_without_keys_each_address_is_a_caller(serve: Serve, sqlite_url: str) -> None:
    """Where a limit is set."""
    client = serve(database_url=sqlite_url, rate_limit="5")

    def statuses(address: str) -> set[int]:
        environ = {"REMOTE_ADDR": address}
        return {client.get("/v1/nothing", environ_base=environ).status_code for _ in range(40)}

    eventually(lambda: 429 in statuses("127.0.0.1"), what="an address refused")
    assert 404 in statuses("127.0.0.2")


def test_whoever_guesses_keys_is_told_to_wait(serve: Serve, sqlite_url: str) -> None:
    """While who has a key is served, from the same address too."""
    client = serve(database_url=sqlite_url, api_key="mine")

    codes = {client.get("/metrics", headers=bearer(f"guess-{n}")).status_code for n in range(40)}

    assert codes == {401, 429}
    assert client.get("/metrics", headers=bearer("mine")).status_code == 200


def test_the_first_key_needs_a_confirmation(run: Run) -> None:
    """It locks out every caller without a key; in a pipe it takes --yes. Further keys do not."""
    refused = run("create", "shop", status=2)
    assert "within 2 seconds of the first key it requires one from every caller" in refused
    assert "use --yes to create it" in refused
    assert json.loads(run("list", "--json")) == []

    run("create", "shop", "--yes")
    run("create", "dashboard")

    assert [key["name"] for key in json.loads(run("list", "--json"))] == ["shop", "dashboard"]


def test_revoking_the_last_key_says_that_it_opens_nothing(run: Run) -> None:
    first = json.loads(run("create", "shop", "--yes", "--json"))["id"]
    second = json.loads(run("create", "dashboard", "--json"))["id"]

    assert run("revoke", first) == f"The key {first} is revoked.\n"
    assert (
        "no valid key is left, and the API still requires one: a revoked key may have been in the"
        " wrong hands, so revoking it opens nothing."
    ) in run("revoke", second)
