"""The live stream: every event to who listens, and none lost to who comes back."""

import hashlib
import http.client
import itertools
import json
import random
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, func, select, update
from werkzeug.test import TestResponse

from allocation.adapters.sql import database, migrations, retention
from allocation.adapters.sql.api_keys import REMEMBERED, ApiKeys
from allocation.adapters.sql.tables import outbox
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, Command, CreateBatch
from allocation.entrypoints.api import state
from allocation.entrypoints.api.resources import live_events, stream
from allocation.entrypoints.api.resources.live_events import LiveEvents
from allocation.service_layer.execution import execute
from allocation.service_layer.unit_of_work import Message
from tests.api.conftest import Serve, engine_of
from tests.api.listening import Ear
from tests.faults.gates import Gate
from tests.servers.ports import free_ports
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

COMMAND = [sys.executable, "-m", "allocation", "api"]


class House:
    """One process of the API on one database, and a hand that decides commands there."""

    def __init__(self, start: Callable[..., Process], url: str, folder: Path) -> None:
        [self.port] = free_ports(1)
        self.engine = database.engine(url, pool_size=20)
        self._start = start
        self._env = {
            "ALLOCATION_DATABASE_URL": url,
            "ALLOCATION_STATE_DIR": str(folder),
            "ALLOCATION_PORT": str(self.port),
            "ALLOCATION_API_WORKERS": "1",
        }

    def open(self, **settings: str) -> Process:
        api = self._start(COMMAND, name="api", env=self._env | settings)
        api.wait_for_log("The API is ready")
        return api

    def decide(self, *commands: Command) -> None:
        for command in commands:
            execute(Message(uuid4(), command, uuid4()), SqlUnitOfWork(self.engine))

    def log(self) -> list[tuple[str, Any]]:
        """Every event that is kept, as the stream has to tell it, in the order of positions."""
        query = select(outbox.c.name, outbox.c.body).where(outbox.c.kind == "event")
        with self.engine.connect() as connection:
            rows = connection.execute(query.order_by(outbox.c.position)).all()
        return [(row.name.split(".")[1], row.body) for row in rows]

    def last_position(self) -> int:
        query = select(func.max(outbox.c.position)).where(outbox.c.kind == "event")
        with self.engine.connect() as connection:
            return connection.scalar(query) or 0

    def settled_id(self, ear: Ear) -> str:
        """The listener's id, once nothing that he may have missed can come below it."""
        eventually(lambda: int(ear.id) >= self.last_position(), what="a settled id")
        return ear.id

    def listen(self, query: str = "", **options: Any) -> Ear:
        return Ear(self.port, query, **options)


@pytest.fixture
def own_house(
    processes: Callable[..., Process], database_url: str, tmp_path: Path
) -> Iterator[House]:
    """On PostgreSQL, not open yet."""
    made = House(processes, database_url, tmp_path)
    yield made
    made.engine.dispose()


@pytest.fixture(params=["sqlite_url", "database_url"])
def house(
    request: pytest.FixtureRequest, processes: Callable[..., Process], tmp_path: Path
) -> Iterator[House]:
    """Open, on each of the two databases."""
    made = House(processes, request.getfixturevalue(request.param), tmp_path)
    made.open()
    yield made
    made.engine.dispose()


def batch(sku: str, qty: int = 100) -> CreateBatch:
    return CreateBatch(f"batch of {sku}", sku, qty)


def problem(port: int, headers: dict[str, str]) -> tuple[int, dict[str, str], Any]:
    """What who asks for the stream is told instead."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    connection.request("GET", "/stream", headers=headers)
    response = connection.getresponse()
    told = response.status, dict(response.headers), json.loads(response.read() or b"{}")
    connection.close()
    return told


def test_every_event_is_told_as_it_is_in_the_log(house: House) -> None:
    """From the moment on that the first id came; what was before is not told."""
    house.decide(batch("LAMP"))

    with house.listen() as ear:
        house.decide(Allocate("order-1", "LAMP", 3), batch("TABLE"), Allocate("order-1", "SOFA", 1))
        house.decide(Allocate("order-2", "LAMP", 200))
        heard = ear.wait_for(3)

    assert heard == house.log()[1:]
    assert [name for name, _ in heard] == ["allocated", "batch_created", "out_of_stock"]
    assert ear.response.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert ear.response.headers["Cache-Control"] == "no-store"
    assert ear.lines[0] == "retry: 2000"


def test_a_listener_hears_only_what_he_asked_for(house: House) -> None:
    """Of these skus, and of these orders; both together are both."""
    queries = ["?sku=LAMP&sku=TABLE", "?orderid=order-1", "?sku=LAMP&orderid=order-1"]
    ears = [house.listen(query) for query in queries]
    for ear in ears:
        ear.__enter__()

    for sku in ("LAMP", "TABLE", "SOFA"):
        house.decide(batch(sku), Allocate("order-1", sku, 1), Allocate("order-2", sku, 1))
    house.decide(Allocate("order-1", "LAMP", 1), batch("last"), Allocate("order-1", "last", 1))
    everything = house.log()
    for ear, count in zip(ears, (6, 4, 1), strict=True):
        ear.wait_for(count)
        ear.hang_up()

    data = [event["data"] for _, event in everything]
    assert [[event["data"] for _, event in ear.heard] for ear in ears] == [
        [each for each in data if each["sku"] in ("LAMP", "TABLE")],
        [each for each in data if each.get("orderid") == "order-1"],
        [each for each in data if each.get("orderid") == "order-1" and each["sku"] == "LAMP"],
    ]


@pytest.mark.parametrize("by", ["header", "address"])
def test_who_comes_back_hears_what_he_missed(house: House, by: str) -> None:
    """All of it and nothing twice, as nobody was about to commit."""
    with house.listen() as ear:
        house.decide(batch("LAMP"), Allocate("order-1", "LAMP", 1))
        ear.wait_for(2)
        last = house.settled_id(ear)
    with house.listen() as witness:
        house.decide(*(Allocate(f"order-{number}", "LAMP", 1) for number in range(2, 12)))
        witness.wait_for(10)  # so the process has seen them

    again = house.listen(last=last) if by == "header" else house.listen(f"?lastEventId={last}")
    with again:
        again.wait_for(10)
        house.decide(Allocate("order-12", "LAMP", 1))
        heard = again.wait_for(11)

    assert heard == house.log()[2:]


def test_an_event_that_others_overtook_is_heard_all_the_same(own_house: House) -> None:
    """It has the lower position, and commits later: the id waits for it, the others don't."""
    own_house.open()
    own_house.decide(batch("LAMP"), batch("SOFA"))
    gate = Gate(own_house.engine, "outbox", deferred=True, when="NEW.sku = 'LAMP'")

    with own_house.listen() as steady, own_house.listen() as leaver:
        with ThreadPoolExecutor(1) as threads, gate.shut():
            held = threads.submit(own_house.decide, Allocate("order-1", "LAMP", 1))
            gate.wait_for_somebody()
            own_house.decide(Allocate("order-1", "SOFA", 1))
            before = [steady.wait_for(1), leaver.wait_for(1)]
            leaver.hang_up()
            with own_house.listen(last=leaver.id) as returned:
                before.append(returned.wait_for(1))
            assert not held.done()
        held.result()
        [late, soon] = own_house.log()[2:]
        heard = steady.wait_for(2)
        with own_house.listen(last=returned.id) as back:
            missed = back.wait_for(2)
        own_house.decide(Allocate("order-2", "SOFA", 1))
        steady.wait_for(3)

    assert (late[1]["data"]["sku"], soon[1]["data"]["sku"]) == ("LAMP", "SOFA")
    assert before == [[soon]] * 3
    assert heard == [soon, late]
    assert missed == [late, soon]
    assert len(set(steady.ids)) == 3


def test_an_event_that_never_commits_holds_no_id_back(own_house: House) -> None:
    """Once the session that was about to commit it is gone."""
    own_house.open()
    own_house.decide(batch("LAMP"), batch("SOFA"))
    gate = Gate(own_house.engine, "outbox", deferred=True, when="NEW.sku = 'LAMP'")

    with own_house.listen() as ear:
        with ThreadPoolExecutor(1) as threads, gate.shut():
            held = threads.submit(own_house.decide, Allocate("order-1", "LAMP", 1))
            gate.wait_for_somebody()
            own_house.decide(Allocate("order-1", "SOFA", 1))
            ear.wait_for(1)
            before = int(ear.id)
            gate.cut_off()
        last = own_house.settled_id(ear)

    assert held.exception()
    assert before < int(last) == own_house.last_position()
    assert ear.heard == own_house.log()[2:]


@pytest.mark.timeout(240)
def test_many_at_once_lose_nothing(own_house: House) -> None:
    """Who stays hears each event once; who comes and goes hears each at least once."""
    own_house.open()
    skus = [f"sku-{number}" for number in range(6)]
    own_house.decide(*(batch(sku, 1000) for sku in skus))
    until = threading.Event()
    heard_between: list[str] = []

    def something(ear: Ear) -> bool:
        return bool(ear.heard) or until.is_set()

    def come_and_go(first: str) -> str:
        last = first
        while not until.is_set():
            with own_house.listen(last=last) as ear:
                eventually(partial(something, ear), what="an event")
            heard_between.extend(ear.ids)
            last = ear.id
        return last

    def write(number: int) -> None:
        chance = random.Random(number)
        for line in range(60):
            sku = chance.choice(skus)
            own_house.decide(Allocate(f"order-{number}-{line}", sku, 1))

    with own_house.listen() as ear, ThreadPoolExecutor(5) as threads:
        wanderer = threads.submit(come_and_go, ear.id)
        list(threads.map(write, range(4)))
        ear.wait_for(240, within=60)
        until.set()
        with own_house.listen(last=wanderer.result()) as rest:
            own_house.decide(batch("the last"))
            eventually(lambda: "the last" in str(rest.heard), what="the last event")
        eventually(lambda: "the last" in str(ear.heard), what="the last event")

    written = [event["id"] for _, event in own_house.log()[6:]]
    assert sorted(ear.ids) == sorted(written)
    assert set(heard_between + rest.ids) == set(written)
    for sku in skus:
        numbers = [int(e["sequence"]) for _, e in ear.heard if e["subject"] == sku]
        assert numbers == sorted(numbers)


def test_listeners_outlive_the_database(
    processes: Callable[..., Process],
    private_postgres: PrivatePostgres,
    database_url: str,
    tmp_path: Path,
) -> None:
    """Stopped and started: who listens goes on hearing, on the same connection."""
    house = House(processes, database_url, tmp_path)
    api = house.open()
    with house.listen() as ear, house.listen(last="0") as other:
        house.decide(batch("LAMP"))
        ear.wait_for(1)
        house.engine.dispose()
        private_postgres.restart()
        eventually(lambda: not ear.over, what="the listener")
        house.decide(Allocate("order-1", "LAMP", 1))
        heard = [ear.wait_for(2), other.wait_for(2)]
        house.settled_id(ear)

    assert heard == [house.log()] * 2
    assert "the streams wait" in api.logs()
    house.engine.dispose()


def test_a_stop_ends_the_streams(own_house: House) -> None:
    """At once, in order: nobody waits for a listener, who comes back with his id."""
    api = own_house.open()
    with own_house.listen() as ear:
        own_house.decide(batch("LAMP"))
        ear.wait_for(1)
        last = own_house.settled_id(ear)
        api.send(signal.SIGTERM)
        eventually(lambda: ear.over, within=5, what="the stream to end")
        status = api.wait(10)
    own_house.decide(Allocate("order-1", "LAMP", 1))
    own_house.open()
    with own_house.listen(last=last) as again:
        heard = again.wait_for(1)

    assert status == 0
    assert heard == own_house.log()[1:]


def test_streams_have_places_of_their_own(own_house: House) -> None:
    """One too many is told so; other requests are answered; who hangs up makes room."""
    own_house.open(ALLOCATION_API_STREAMS="2", ALLOCATION_API_THREADS="1")

    with own_house.listen() as first, own_house.listen():
        status, headers, body = problem(own_house.port, {})
        connection = http.client.HTTPConnection("127.0.0.1", own_house.port, timeout=10)
        connection.request("GET", "/readyz")
        ready = connection.getresponse().status
        connection.close()
        first.hang_up()

        def room() -> bool:
            try:
                Ear(own_house.port).hang_up()
            except AssertionError:
                return False
            return True

        eventually(room, what="a place")

    assert (status, headers["Content-Type"], headers["Retry-After"]) == (
        *(503, "application/problem+json"),
        "5",
    )
    assert body["detail"] == "This process already serves 2 streams. Try again later."
    assert ready == 200


def test_who_was_away_for_too_long_is_told_to_begin_anew(house: House) -> None:
    """What he missed is dropped; so is all that he knows, if the database is another one."""
    house.decide(batch("LAMP"), Allocate("order-1", "LAMP", 1), Allocate("order-2", "LAMP", 1))
    long_ago = datetime.now(UTC) - timedelta(days=60)
    with house.engine.begin() as connection:
        connection.execute(update(outbox).values(sent_at=long_ago))
    now = datetime.now(UTC)
    assert list(retention.drop(house.engine, retention.Limits(events=now, commands=long_ago)))

    with house.listen(last="1") as late, house.listen(last="9" * 18) as stranger:
        first = [late.wait_for(1), stranger.wait_for(1)]
        house.decide(Allocate("order-3", "LAMP", 1))
        heard = [late.wait_for(2), stranger.wait_for(2)]
        with house.listen(last=house.settled_id(late)) as again:
            house.decide(Allocate("order-4", "LAMP", 1))
            then = again.wait_for(1)

    assert first == [[("reset", {})]] * 2
    assert heard == [[("reset", {}), house.log()[-2]]] * 2
    assert then == house.log()[-1:]


def tickets(events: LiveEvents) -> int:
    """How many events the process has seen."""
    place = events.start_position(1)
    return place.ticket if place else 0


def told(response: TestResponse) -> Iterator[str]:
    """The pieces of a stream of the application in this process."""
    for piece in response.iter_encoded():
        yield piece.decode()


def test_beyond_loopback_the_stream_takes_a_key(
    serve: Serve, sqlite_url: str, engine: Engine
) -> None:
    """Or a session; a program is told 401, and is sent nowhere."""
    _, writes = ApiKeys(engine).create("writer", ["write"])
    client = serve(database_url=sqlite_url, host="0.0.0.0", api_key="mine")

    without = client.get("/stream", headers={"Accept": "text/event-stream"})
    lacking = client.get("/stream", headers={"Authorization": f"Bearer {writes}"})
    by_key = client.get("/stream", headers={"Authorization": "Bearer mine"})
    with client.session_transaction() as session:
        session["key"] = hashlib.sha256(b"mine").hexdigest()
    by_session = client.get("/stream")
    by_key.close()
    by_session.close()

    assert (without.status_code, without.mimetype) == (401, "application/problem+json")
    assert lacking.status_code == 403
    assert (by_key.status_code, by_session.status_code) == (200, 200)


def test_a_revoked_key_ends_its_streams_before_the_next_sign_of_life(
    serve: Serve, sqlite_url: str, engine: Engine
) -> None:
    assert stream.BEAT == 15
    assert stream.LOOK_AT_KEY + stream._STEP + REMEMBERED <= 2
    key, text = ApiKeys(engine).create("shop", ["read"])
    client = serve(database_url=sqlite_url, host="0.0.0.0")
    pieces = told(client.get("/stream", headers={"Authorization": f"Bearer {text}"}))
    first = next(pieces)

    ApiKeys(engine).revoke(key.id)
    rest = list(pieces)

    assert first == "retry: 2000\nid: 0\n: from here on\n\n"
    assert rest == []


def test_a_stream_full_of_events_ends_with_its_key(
    serve: Serve, sqlite_url: str, engine: Engine
) -> None:
    key, text = ApiKeys(engine).create("shop", ["read"])
    client = serve(database_url=sqlite_url, host="0.0.0.0")
    pieces = told(client.get("/stream", headers={"Authorization": f"Bearer {text}"}))
    next(pieces)

    def go_on() -> None:
        for number in itertools.count():
            if over.is_set():
                return
            command = CreateBatch(batchref=f"b{number}", sku="LAMP", qty=1)
            execute(Message(uuid4(), command, uuid4()), SqlUnitOfWork(engine))

    over = threading.Event()
    with ThreadPoolExecutor(1) as threads:
        busy = threads.submit(go_on)
        heard = next(pieces)
        ApiKeys(engine).revoke(key.id)
        rest = list(pieces)
        over.set()
        busy.result()

    assert "event: batch_created" in heard
    assert [piece for piece in rest if piece.endswith("\n:\n\n")] == []


def test_who_falls_behind_is_served_from_the_log(
    serve: Serve, sqlite_url: str, engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each event once, however few of them the process holds."""
    monkeypatch.setattr(live_events, "_RECENT", 4)
    client = serve(database_url=sqlite_url)
    response = client.get("/stream")
    pieces = told(response)
    begun = next(pieces)
    house = House(Process, sqlite_url, Path())

    house.decide(batch("LAMP"), *(Allocate(f"order-{n}", "LAMP", 1) for n in range(30)))
    events = state.of(client.application).live_events
    eventually(lambda: tickets(events) == 31, what="all events to be seen")
    heard = [json.loads(next(pieces).split("data: ")[1])["id"] for _ in range(31)]
    house.decide(Allocate("order-31", "LAMP", 1))
    heard.append(json.loads(next(pieces).split("data: ")[1])["id"])
    response.close()
    house.engine.dispose()

    assert re.fullmatch(r"retry: 2000\nid: \d+\n: from here on\n\n", begun)
    assert heard == [event["id"] for _, event in house.log()]


def test_who_falls_behind_while_a_commit_is_overtaken_hears_each_once(
    serve: Serve, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Although the log is read again from before what was overtaken."""
    monkeypatch.setattr(live_events, "_RECENT", 4)
    house = House(Process, database_url, Path())
    house.decide(batch("LAMP"), batch("SOFA"))
    gate = Gate(house.engine, "outbox", deferred=True, when="NEW.sku = 'LAMP'")
    client = serve(database_url=database_url)
    events = state.of(client.application).live_events
    response = client.get("/stream")
    pieces = told(response)
    begun = next(pieces)
    told_events = (piece for piece in pieces if "data: " in piece)

    with ThreadPoolExecutor(1) as threads, gate.shut():
        held = threads.submit(house.decide, Allocate("order-1", "LAMP", 1))
        gate.wait_for_somebody()
        house.decide(Allocate("order-1", "SOFA", 1))
        heard = [next(told_events)]
        house.decide(*(Allocate(f"order-{n}", "SOFA", 1) for n in range(2, 32)))
        eventually(lambda: tickets(events) == 31, what="all to be seen")
        heard += [next(told_events) for _ in range(30)]
    held.result()
    heard.append(next(told_events))
    response.close()
    house.engine.dispose()

    ids = [json.loads(piece.split("data: ")[1])["id"] for piece in heard]
    assert re.fullmatch(r"retry: 2000\nid: \d+\n: from here on\n\n", begun)
    assert sorted(ids) == sorted(event["id"] for _, event in house.log()[2:])


def test_who_missed_nothing_is_answered_at_once(client: FlaskClient) -> None:
    """By the id that he has: his stream is open, and he need not wait for an event to know it."""
    response = client.get("/stream", headers={"Last-Event-ID": "0"})
    first = next(told(response))
    response.close()

    assert first == "retry: 2000\nid: 0\n: from here on\n\n"


def test_who_comes_while_the_database_is_away_is_told_when_it_begins(
    serve: Serve, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By `reset`: since the stream was open he may have asked for what had yet to change."""
    monkeypatch.setattr(stream, "BEAT", 0.05)
    url = f"sqlite:///{tmp_path}/allocation.db"
    client = serve(database_url=url, api_key="mine")  # which is known without the database
    mine = {"Authorization": "Bearer mine"}
    migrations.upgrade(url)
    assert client.get("/v1/products/LAMP", headers=mine).status_code == 404
    engine_of(client).dispose()
    for file in tmp_path.glob("allocation.db*"):
        file.unlink()
    response = client.get("/stream", headers=mine)
    pieces = told(response)
    before = [next(pieces), next(pieces)]

    migrations.upgrade(url)
    after = next(piece for piece in pieces if piece != ":\n\n")
    response.close()

    assert before == ["retry: 2000\n:\n\n", ":\n\n"]
    assert after == "id: 0\nevent: reset\ndata: {}\n\n"


@pytest.mark.parametrize("last", ["x", "-1", "1.5", "9" * 19, "\u0663"])
def test_an_id_that_the_stream_never_sent_is_refused(client: FlaskClient, last: str) -> None:
    """422, by name."""
    response = client.get("/stream", query_string={"lastEventId": last})

    assert response.status_code == 422
    assert response.json is not None
    assert response.json["errors"] == [
        {"field": "Last-Event-ID", "problem": "is not an id that this stream has sent"}
    ]


def test_who_takes_nothing_is_cut_off(client: FlaskClient) -> None:
    """By TCP, after 30 seconds: the thread that sends could not."""
    with (
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.create_connection(server.getsockname()) as there,
    ):
        response = client.get("/stream", environ_overrides={"gunicorn.socket": there})
        patience = there.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
        response.close()

    assert patience == stream.SEND_TIMEOUT == 30_000
