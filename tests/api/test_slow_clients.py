"""Clients that send or take a byte now and then block no other client, and are cut off."""

import http.client
import json
import os
import re
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from pathlib import Path

import pytest

from allocation.entrypoints.api.http import parsing, slow_clients
from tests.conftest import PROCESSES
from tests.servers.ports import free_ports
from tests.servers.processes import Process, Processes
from tests.waiting import eventually

EACH = 40  # connections of each kind: more than the API has threads
API = (
    "from allocation import __main__ as cli;"
    " from allocation.entrypoints.api.http import slow_clients as slow; {}; cli.main()"
)

HEAD = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
SLOW = {
    "nothing": b"",
    "headers": HEAD,
    "body": HEAD + b"Content-Length: 1000\r\n\r\n{",
    "chunks": HEAD + b"Transfer-Encoding: chunked\r\n\r\n5\r\n{",
    "body too large": HEAD + b"Content-Length: 2000000\r\n\r\n{",
    "response": b"GET /docs/swagger-ui-bundle.js HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4,
    "closed connection": b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n",
}


class Api:
    """One process of the API; `setup` changes its deadlines.

    It has 8 threads and 20 for streams, and none for requests that wait.
    """

    def __init__(self, start: Callable[..., Process], url: str, folder: Path, setup: str) -> None:
        [self.port] = free_ports(1)
        environment = {
            "ALLOCATION_DATABASE_URL": url,
            "ALLOCATION_STATE_DIR": str(folder),
            "ALLOCATION_PORT": str(self.port),
            "ALLOCATION_API_WORKERS": "1",
            "ALLOCATION_API_WAITS": "0",
        }
        command = [sys.executable, "-c", API.format(setup), "api"]
        self.process = start(command, name="api", env=environment)
        self.process.wait_for_log("The API is ready")

    def connect(self) -> socket.socket:
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", self.port))
        return connection

    @contextmanager
    def slow(self, sent: bytes, number: int = EACH) -> Iterator[Sequence[socket.socket]]:
        """Connections that have sent this, and go on sending a byte now and then."""
        over = threading.Event()

        def trickle(connections: Sequence[socket.socket]) -> None:
            while not over.wait(0.5):
                for connection in connections:
                    with suppress(OSError):  # cut off already
                        connection.send(b"x", socket.MSG_DONTWAIT)

        with ExitStack() as stack:
            connections = [stack.enter_context(self.connect()) for _ in range(number)]
            for connection in connections:
                connection.sendall(sent)
            thread = threading.Thread(target=trickle, args=(connections if sent else [],))
            thread.start()
            try:
                yield connections
            finally:
                over.set()
                thread.join()

    def ask(self, path: str = "/readyz") -> int:
        """The status of a request on a connection of its own."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        connection.request("GET", path)
        status = connection.getresponse().status
        connection.close()
        return status


@pytest.fixture
def start(
    processes: Callable[..., Process], sqlite_url: str, tmp_path: Path
) -> Callable[[str], Api]:
    def made(setup: str) -> Api:
        return Api(processes, sqlite_url, tmp_path, setup)

    return made


@pytest.fixture(scope="module")
def api_of_the_module(
    migrated_file: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Api]:
    folder = tmp_path_factory.mktemp("api")
    (folder / "allocation.db").write_bytes(migrated_file.read_bytes())
    processes = Processes(folder)
    try:
        yield Api(processes.start, f"sqlite:///{folder}/allocation.db", folder, "pass")
    finally:
        processes.stop()


@pytest.fixture
def api(request: pytest.FixtureRequest, api_of_the_module: Api) -> Api:
    """With the product's own deadlines; one for all tests that leave it running."""
    request.node.stash.setdefault(PROCESSES, []).append([api_of_the_module.process])
    return api_of_the_module


one_api = pytest.mark.xdist_group("slow clients")
"""For tests with `api`: they run in one process of pytest-xdist."""


def is_open(connection: socket.socket) -> bool:
    try:
        return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
    except BlockingIOError:
        return True
    except ConnectionResetError:
        return False


def rest(connection: socket.socket) -> bytes:
    """What the server still sends, until it closes the connection."""
    received = b""
    with suppress(ConnectionResetError):
        while piece := connection.recv(65536):
            received += piece
    return received


def test_many_slow_clients_hold_nobody_up(start: Callable[[str], Api]) -> None:
    """Without deadlines: none is served only because a slow one was cut off."""
    forever = "slow.HEAD_SECONDS = slow.BODY_SECONDS = slow.RESPONSE_SECONDS = 1000"
    api = start(f"{forever}; slow.LINGER_SECONDS = 1000; slow.HELD = 2**40")

    with ExitStack() as kinds:
        for kind, sent in SLOW.items():
            connections = kinds.enter_context(api.slow(sent))
            statuses = [api.ask() for _ in range(10)]

            assert statuses == [200] * 10, kind
            assert all(map(is_open, connections)), kind


def test_a_slow_request_is_cut_off_at_its_deadline(start: Callable[[str], Api]) -> None:
    assert (slow_clients.HEAD_SECONDS, slow_clients.BODY_SECONDS) == (10, 30)
    api = start("slow.HEAD_SECONDS = slow.BODY_SECONDS = 1")

    for kind in ("nothing", "headers", "body", "chunks"):
        with api.slow(SLOW[kind]) as connections:
            ends = [rest(connection) for connection in connections]

        assert {end[9:12] for end in ends} == {b"" if kind == "nothing" else b"408"}, kind


def test_a_response_that_is_not_taken_is_cut_off_at_its_deadline(
    start: Callable[[str], Api],
) -> None:
    api = start("slow.RESPONSE_SECONDS = 1")

    with api.slow(SLOW["response"], 20) as connections:
        for connection in connections:
            eventually(partial(is_cut_off, connection), within=30, what="the client cut off")


def is_cut_off(connection: socket.socket) -> bool:
    """Whether the server has closed the connection for good: it resets what is still sent."""
    try:
        connection.send(b"x", socket.MSG_DONTWAIT)
    except (BrokenPipeError, ConnectionResetError):
        return True
    except BlockingIOError:
        pass
    return False


@one_api
def test_a_slow_client_that_takes_all_gets_all(api: Api) -> None:
    """More than the sockets hold: the main loop sends it, and the connection goes on."""
    request = SLOW["response"][: len(SLOW["response"]) // 4]

    with api.connect() as connection:
        connection.sendall(request)
        eventually(lambda: api.ask() == 200)
        first = http.client.HTTPResponse(connection)
        first.begin()
        length = len(first.read())
        connection.sendall(request)
        second = http.client.HTTPResponse(connection)
        second.begin()

        assert length == int(first.headers["Content-Length"]) > 1_000_000
        assert len(second.read()) == length


def test_no_more_is_held_than_there_is_room_for(start: Callable[[str], Api]) -> None:
    api = start("slow.HELD = 8 * 2**20; slow.RESPONSE_SECONDS = 1000")

    with api.slow(SLOW["response"], 40) as connections:
        eventually(lambda: is_cut_off(connections[0]), within=20, what="the first cut off")
        status = api.ask()

    assert status == 200


def test_one_connection_too_many_cuts_off_the_oldest(start: Callable[[str], Api]) -> None:
    api = start("slow.CONNECTIONS = 12")  # and 28 for the threads

    with api.slow(SLOW["headers"], 60) as connections:
        status = api.ask()
        eventually(lambda: not is_open(connections[0]), what="the oldest cut off")
        last = is_open(connections[-1])

    assert status == 200
    assert last


def test_a_stop_does_not_wait_for_slow_clients(start: Callable[[str], Api]) -> None:
    api = start("slow.HEAD_SECONDS = slow.BODY_SECONDS = 1000")

    with api.slow(SLOW["headers"], 20), api.slow(SLOW["body"], 20):
        assert api.ask() == 200
        os.kill(api.process.pid, signal.SIGTERM)
        status = api.process.wait(within=20)

    assert status == 0
    assert "Traceback" not in api.process.logs()


@one_api
def test_a_client_that_waits_for_100_continue_gets_it(api: Api) -> None:
    line = json.dumps({"orderid": "o1", "sku": "LAMP", "qty": 1}).encode()
    head = (
        f"POST /v1/allocations HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(line)}\r\n\r\n"
    )

    with api.connect() as connection:
        connection.sendall(head.encode())
        asked = connection.recv(25)
        connection.sendall(line)
        response = http.client.HTTPResponse(connection)
        response.begin()

    assert asked == b"HTTP/1.1 100 Continue\r\n\r\n"
    assert response.status == 202


@one_api
@pytest.mark.parametrize(
    ("version", "fields", "body", "statuses"),
    [
        (b"1.1", b"Content-Length: %040d\r\n", b"{}", ["422"]),
        (b"1.1", b"Content-Length: %d\r\n", b'"%s"' % (b"x" * (parsing.LIMIT - 1)), ["413"]),
        (b"1.1", b"Expect: 100-continue\r\nContent-Length: %d\r\n", b"{}", ["100", "422"]),
        (b"1.0", b"Expect: 100-continue\r\nContent-Length: %d\r\n", b"{}", ["422"]),
    ],
    ids=["zeros before the length", "one byte too many", "100-continue", "100-continue by 1.0"],
)
def test_a_request_has_one_answer(
    api: Api, version: bytes, fields: bytes, body: bytes, statuses: list[str]
) -> None:
    """Its body comes a moment after its head."""
    head = HEAD.replace(b"/login", b"/v1/batches").replace(b"HTTP/1.1", b"HTTP/" + version)
    head += fields % len(body) + b"Connection: close\r\n\r\n"

    with api.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(head)
        eventually(lambda: api.ask() == 200)  # so the head has been read
        with suppress(ConnectionResetError, BrokenPipeError):
            connection.sendall(body)
        answers = rest(connection)

    assert re.findall(r"^HTTP/1\.[01] (\d+)", answers.decode(), re.MULTILINE) == statuses


@one_api
@pytest.mark.parametrize(("pieces", "status"), [(300_000, 422), (400_000, 413)])
def test_a_body_in_the_smallest_chunks_holds_no_thread(api: Api, pieces: int, status: int) -> None:
    """gunicorn copied all that was left for each of them: minutes for one request."""
    head = HEAD.replace(b"/login", b"/v1/batches") + b"Transfer-Encoding: chunked\r\n\r\n"
    body = json.dumps({"sku": "x" * (pieces - 11)}).encode()

    with api.connect() as connection:
        connection.settimeout(60)
        connection.sendall(head + b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\n\r\n")
        response = http.client.HTTPResponse(connection)
        response.begin()

    assert response.status == status


@one_api
def test_requests_sent_in_one_go_are_answered_in_turn(api: Api) -> None:
    chunked = HEAD.replace(b"/login", b"/v1/batches") + b"Transfer-Encoding: chunked\r\n\r\n"
    requests = [
        b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n",
        chunked + b"3;a=b\r\n{}}\r\n0\r\nx: y\r\n\r\n",
        HEAD.replace(b"/login", b"/v1/batches") + b"Content-Length: 2\r\n\r\n{}",
        b"GET /nowhere HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    ]

    with api.connect() as connection:
        connection.sendall(b"".join(requests))
        answers = rest(connection).split(b"HTTP/1.1 ")

    assert [answer[:3] for answer in answers] == [b"", b"200", b"400", b"422", b"404"]
