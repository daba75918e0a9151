"""The client for Python services, over real HTTP with the API."""

import inspect
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest
from flask import Flask
from sqlalchemy import Engine, select
from werkzeug.serving import WSGIRequestHandler, make_server

from allocation.adapters.sql.api_keys import ApiKeys
from allocation.adapters.sql.tables import commands
from allocation.client import (
    AmqpClient,
    ClientError,
    HttpClient,
    Invalid,
    Outcome,
    Reused,
    Unauthorized,
    Unreachable,
)
from allocation.contract import codec, registry
from allocation.entrypoints.api.http.parsing import ONLY_IN_MESSAGES
from tests.api.conftest import Serve, Worker
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.processes import ROOT

CALLERS = {
    name.removeprefix("allocation.") for name in registry.COMMANDS.keys() - registry.FOLLOW_UPS
}
UNKNOWN = "0c9ad1a4-5a52-4d4e-8b0e-3f4f5a1f7e10"
LINE: dict[str, Any] = {"orderid": "order-1", "sku": "LAMP", "qty": 3}

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Any]


@dataclass
class Server:
    """An application on a port, and what goes wrong there."""

    app: Wsgi
    faults: list[Callable[[Environ, Callable[..., Any], Wsgi], Any]] = field(default_factory=list)
    """Each answers one request in the place of the app, the first the next one."""
    requests: list[str] = field(default_factory=list)
    url: str = ""

    def __call__(self, environ: Environ, start: Callable[..., Any]) -> Any:
        self.requests.append(f"{environ['REQUEST_METHOD']} {environ['PATH_INFO']}")
        if self.faults:
            return self.faults.pop(0)(environ, start, self.app)
        return self.app(environ, start)


class Silent(WSGIRequestHandler):
    def log(self, *_: object, **__: object) -> None:
        pass


@pytest.fixture
def listening() -> Iterator[Callable[[Wsgi], Server]]:
    """Puts an application on a port."""
    running = []

    def make(app: Wsgi) -> Server:
        server = Server(app)
        served = make_server(LOOPBACK, 0, server, threaded=True, request_handler=Silent)
        server.url = f"http://{LOOPBACK}:{served.port}"
        thread = threading.Thread(target=served.serve_forever, args=(0.01,))
        thread.start()
        running.append((served, thread))
        return server

    yield make
    for served, thread in running:
        served.shutdown()
        thread.join()
        served.server_close()


@pytest.fixture
def app(serve: Serve, sqlite_url: str) -> Flask:
    """The API on SQLite; it asks for no key."""
    return serve(database_url=sqlite_url).application


@pytest.fixture
def server(listening: Callable[[Wsgi], Server], app: Flask) -> Server:
    """The API on SQLite, on a port."""
    return listening(app)


@pytest.fixture
def http(server: Server) -> HttpClient:
    """A client of that API, which doesn't wait long."""
    return HttpClient(server.url, patience=5)


def accepted(engine: Engine) -> list[tuple[str, str, dict[str, Any]]]:
    """Id, name and body of every command that was taken."""
    query = select(commands.c.id, commands.c.name, commands.c.body)
    with engine.connect() as connection:
        return [(str(row.id), row.name, row.body) for row in connection.execute(query)]


def put_off(environ: Environ, start: Callable[..., Any], app: Wsgi) -> list[bytes]:
    """As the API does under pressure."""
    start("503 Service Unavailable", [("retry-after", "1")])  # some proxies write it small
    return [b'{"detail": "Too much waits."}']


def lose_answer(environ: Environ, start: Callable[..., Any], app: Wsgi) -> list[bytes]:
    """The request takes effect, and the connection is cut before the answer."""
    for _ in app(environ, lambda *_: None):
        pass
    environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
    return []


@pytest.mark.parametrize("name", sorted(CALLERS - {"change_priority"}))
def test_each_command_arrives_as_the_contracts_example(
    http: HttpClient, engine: Engine, name: str
) -> None:
    """Its fields are the method's arguments; the id that is returned is the command's."""
    example = registry.example(f"allocation.{name}")

    sent = getattr(http, name)(**example)

    expected = codec.command_body(codec.parse_command(f"allocation.{name}", example))
    assert accepted(engine) == [(sent.id, f"allocation.{name}", expected)]
    assert sent == Outcome(sent.id, "pending", {})


def test_the_methods_are_the_contracts_commands_with_their_fields() -> None:
    """A new command or field of the contract is one of the client, too."""
    methods = {
        name: set(inspect.signature(method).parameters) - {"self", "options"}
        for name, method in inspect.getmembers(AmqpClient, inspect.isfunction)
        if not name.startswith("_") and name not in ("send", "close")
    }

    fields = {
        name: set(registry.schema(f"allocation.{name}")["properties"])
        - {"expected_version", *ONLY_IN_MESSAGES}
        for name in CALLERS
    }
    assert {name: found - {"if_match"} for name, found in methods.items()} == fields
    assert all(hasattr(HttpClient, name) for name in methods)


def test_who_waits_is_told_what_came_of_it(http: HttpClient, worker: Worker) -> None:
    """What holds now; a refusal is an outcome with its reason, no error."""
    http.create_batch(batchref="shelf", sku="LAMP", qty=5, wait=10)

    promised = http.allocate(**LINE, wait=10)
    waiting = http.allocate(orderid="order-2", sku="LAMP", qty=3, wait=10)
    refused = http.allocate(orderid="order-3", sku="NOPE", qty=1, wait=10)

    facts = LINE | {"status": "allocated", "batchref": "shelf", "eta": None}
    assert promised == Outcome(promised.id, "succeeded", facts)
    assert waiting.facts["status"] == "waiting"
    assert refused == Outcome(refused.id, "rejected", {"sku": "NOPE"}, "unknown sku")
    decided = {"status": "allocated", "batchref": "shelf", "eta": None}
    assert http.outcome(promised.id) == Outcome(promised.id, "succeeded", decided)
    assert http.outcome(refused.id) == refused


def wait_in_vain(environ: Environ, start: Callable[..., Any], app: Wsgi) -> list[bytes]:
    """As the API does when it has waited, and the command is still pending."""
    status = "202 Accepted" if environ["REQUEST_METHOD"] == "POST" else "200 OK"
    headers = [("Location", f"/v1/commands/{UNKNOWN}"), ("Retry-After", "1000")]
    start(status, [*headers, ("Preference-Applied", environ.get("HTTP_PREFER", ""))])
    return [json.dumps({"id": UNKNOWN, "status": "pending", "outcome": None}).encode()]


@pytest.mark.usefixtures("worker")
def test_a_server_that_has_waited_is_asked_again_at_once(http: HttpClient, server: Server) -> None:
    """With pauses the wait would be over before the outcome is there."""
    server.faults += [wait_in_vain] * 15
    sent = http.create_batch(batchref="shelf", sku="LAMP", qty=5, wait=10)
    server.faults += [wait_in_vain] * 15
    asked = http.outcome(sent.id, wait=5)

    assert (sent.status, asked.status) == ("succeeded", "succeeded")
    posts, gets = ["POST /v1/batches"] * 16, [f"GET /v1/commands/{sent.id}"] * 16
    assert server.requests == posts + gets


@pytest.mark.usefixtures("worker")
def test_a_change_is_rejected_if_another_came_before_it(http: HttpClient, app: Flask) -> None:
    """By the ETag as it was read, or its text without quotes; a star means any."""
    http.create_batch(batchref="shelf", sku="LAMP", qty=5, wait=10)
    tag = app.test_client().get("/v1/batches/shelf").headers["ETag"]

    changed = http.change_batch_quantity(batchref="shelf", qty=8, if_match=tag, wait=10)
    late = http.change_batch_quantity(batchref="shelf", qty=6, if_match=tag.strip('"'), wait=10)
    forced = http.change_batch_quantity(batchref="shelf", qty=7, if_match="*", wait=10)

    assert (changed.status, changed.facts["qty"]) == ("succeeded", 8)
    assert (late.status, late.reason) == ("rejected", "changed meanwhile")
    assert (forced.status, forced.facts["qty"]) == ("succeeded", 7)


def test_commands_that_share_a_path_are_told_apart(http: HttpClient, engine: Engine) -> None:
    """Also by a field that says nothing: no day."""
    http.change_best_before(batchref="shelf")
    http.change_batch_quantity(batchref="shelf", qty=3)
    http.change_priority(orderid="order-1", sku="LAMP", priority=3)

    assert sorted(name for _, name, _ in accepted(engine)) == [
        "allocation.change_batch_quantity",
        "allocation.change_best_before",
        "allocation.change_priority",
    ]


def test_a_command_that_nobody_has_seen_is_pending(http: HttpClient) -> None:
    """One that was sent over AMQP may be still on its way."""
    assert http.outcome(UNKNOWN) == Outcome(UNKNOWN, "pending", {})


def test_a_lost_answer_is_asked_for_again_and_the_command_taken_once(
    http: HttpClient, server: Server, engine: Engine
) -> None:
    """The client keeps one idempotency key over its tries."""
    server.faults.append(lose_answer)

    sent = http.allocate(**LINE)

    assert server.requests == ["POST /v1/allocations"] * 2
    assert [command_id for command_id, _, _ in accepted(engine)] == [sent.id]


def test_a_server_that_puts_it_off_is_asked_again_after_its_time(
    http: HttpClient, server: Server, engine: Engine
) -> None:
    """And no longer than there is patience."""
    impatient = HttpClient(server.url, patience=0.9)
    server.faults += [put_off, put_off]

    with pytest.raises(Unreachable, match=r"refuses the request for now \(503: Too much waits\.\)"):
        impatient.allocate(**LINE)
    sent = http.allocate(**LINE)

    assert [command_id for command_id, _, _ in accepted(engine)] == [sent.id]
    assert len(server.requests) == 3


def test_a_server_that_is_away_is_named_with_what_to_do() -> None:
    """The error has the key with which the same can be sent again."""
    [port] = free_ports(1)

    with pytest.raises(Unreachable) as raised:
        HttpClient(f"http://{LOOPBACK}:{port}", patience=0).allocate(**LINE, idempotency_key="k")

    assert str(raised.value) == (
        f"http://{LOOPBACK}:{port} can't be reached ([Errno 111] Connection refused); send it again"
        " with idempotency_key='k': it takes effect once"
    )
    assert raised.value.idempotency_key == "k"


def test_wrong_fields_are_named(http: HttpClient, engine: Engine) -> None:
    """Those of the body, and those of the path."""
    with pytest.raises(Invalid) as of_the_body:
        http.allocate(orderid="order-1 ", sku="LAMP", qty=0)
    with pytest.raises(Invalid) as of_the_path:
        http.send("confirm", orderid="")
    with pytest.raises(Invalid, match="'expire' has no route over HTTP"):
        http.send("expire", orderid="order-1")

    assert of_the_body.value.fields == {
        "orderid": "has white space at its end",
        "qty": "the value is less than the minimum of 1",
    }
    assert of_the_path.value.fields == {"orderid": "is missing"}
    assert accepted(engine) == []


@pytest.mark.usefixtures("worker")
@pytest.mark.parametrize("text", ["SO/2026/001", "100%", "a%2Fb", "a?b", "żółw"])
def test_what_a_path_names_may_be_any_id(http: HttpClient, text: str) -> None:
    """The client encodes it."""
    http.create_batch(batchref=text, sku=text, qty=5, wait=10)
    http.reserve(orderid=text, sku=text, qty=1, ttl=60, wait=10)

    asked = [
        http.change_batch_quantity(batchref=text, qty=7, wait=10),
        http.confirm(orderid=text, wait=10),
        http.deallocate(orderid=text, sku=text, wait=10),
    ]

    assert [outcome.status for outcome in asked] == ["succeeded"] * 3


def test_a_key_that_comes_with_another_command_is_an_error(http: HttpClient) -> None:
    """The same command with it is the same again."""
    first = http.allocate(**LINE, idempotency_key="key-1")

    assert http.allocate(**LINE, idempotency_key="key-1") == first
    with pytest.raises(Reused):
        http.allocate(orderid="order-2", sku="LAMP", qty=3, idempotency_key="key-1")


def test_a_key_that_may_only_write_is_told_the_outcome_too(
    serve: Serve,
    sqlite_url: str,
    listening: Callable[[Wsgi], Server],
    engine: Engine,
    worker: Worker,
) -> None:
    """Without a key, or with one that may not, it is Unauthorized."""
    url = listening(serve(database_url=sqlite_url, host="0.0.0.0").application).url
    _, reads = ApiKeys(engine).create("reader", ["read"])
    _, writes = ApiKeys(engine).create("writer", ["write"])

    refused = HttpClient(url, writes).allocate(**LINE, wait=10)

    assert refused == Outcome(refused.id, "rejected", {"sku": "LAMP"}, "unknown sku")
    for key in (None, "alloc_wrong", reads):
        with pytest.raises(Unauthorized):
            HttpClient(url, key).allocate(**LINE)
    with pytest.raises(Unauthorized):
        HttpClient(url, writes).outcome(refused.id)


def test_the_key_follows_no_redirect(server: Server, listening: Callable[[Wsgi], Server]) -> None:
    """It is for the address that it was given with."""

    def redirect(_: Environ, start: Callable[..., Any]) -> list[bytes]:
        start("302 Found", [("Location", f"{server.url}/v1/allocations")])
        return []

    elsewhere = HttpClient(listening(redirect).url, "secret-key-of-the-shop")

    with pytest.raises(ClientError, match="not a response of Allocation: 302"):
        elsewhere.allocate(**LINE)
    assert server.requests == []


def test_http_alone_loads_no_library() -> None:
    """Neither what speaks AMQP, nor anything of the service."""
    program = """if True:
        import sys
        from allocation.client import HttpClient
        HttpClient("http://127.0.0.1:1")
        roots = {name.partition(".")[0] for name in sys.modules} - sys.stdlib_module_names
        print(sorted(roots - {"__main__"}))
        ours = [name.split(".") for name in sys.modules if name.startswith("allocation.")]
        print({name[1] for name in ours})
    """

    told = subprocess.run(
        [sys.executable, "-S", "-c", program],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert told.stderr == ""
    assert told.stdout.splitlines() == ["['allocation']", "{'client'}"]
