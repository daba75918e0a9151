"""The real server: gunicorn with two processes, on a socket."""

import http.client
import json
import re
import shutil
import socket
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlalchemy import Engine, func, select

from allocation.adapters.sql.tables import commands
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.xdist_group("server")

StartProcess = Callable[..., Process]
COMMAND = [sys.executable, "-m", "allocation", "api"]
LINE = {"orderid": "order-1", "sku": "LAMP", "qty": 3}


class Api:
    """The API as a process: `request` opens a new connection each time."""

    def __init__(self, process: Process, port: int) -> None:
        self.process = process
        self.port = port

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        headers: dict[str, str] | None = None,
    ) -> http.client.HTTPResponse:
        """The response, read to its end: `read` gives the body again."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        headers = {"Content-Type": "application/json"} | (headers or {})
        connection.request(method, path, body, headers)  # type: ignore[arg-type]
        return connection.getresponse()


@pytest.fixture(scope="module")
def api(migrated_file: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Api]:
    """The API with two processes, for all tests that leave it running."""
    folder = tmp_path_factory.mktemp("api")
    port = free_ports(1)[0]
    shutil.copy(migrated_file, folder / "allocation.db")
    process = Process(COMMAND, log=folder / "api.log", env=environment(folder, port)).start()
    try:
        process.wait_for_log(rf"ready at http://127\.0\.0\.1:{port}")
        yield Api(process, port)
    finally:
        process.stop()


def environment(folder: Path, port: int) -> dict[str, str]:
    """Everything that the API keeps is in `folder`."""
    return {
        "ALLOCATION_STATE_DIR": str(folder),
        "ALLOCATION_PORT": str(port),
        "TMPDIR": str(folder),
    }


def counted(api: Api) -> list[float]:
    """How many good POSTs of order lines there were, as told by eight scrapes."""
    pattern = r'requests_total\{method="POST",route="/v1/allocations",status="2xx"\} (\S+)'
    texts = [api.request("GET", "/metrics").read().decode() for _ in range(8)]
    return [float(found[1]) if (found := re.search(pattern, text)) else 0.0 for text in texts]


def test_a_body_too_large_gets_a_clean_answer(api: Api) -> None:
    """413 with a length, and in chunks without one; a fitting body in chunks is read.

    8 MB are more than the sockets hold: their sender gets to the answer only if someone reads on.
    """
    chunks = (b"x" * 10_000 for _ in range(200))
    # Cut at the limit, this one would pass for the line before the blanks.
    padded = iter([json.dumps(LINE).encode(), b" " * 2_000_000])

    answers = [
        api.request("POST", "/v1/allocations", body)
        for body in (
            b"x" * 2_000_000,
            b"x" * 8_000_000,
            chunks,
            padded,
            iter([json.dumps(LINE).encode()]),
        )
    ]

    assert [answer.status for answer in answers] == [413, 413, 413, 413, 202]
    assert [answer.headers["Content-Type"] for answer in answers[:4]] == [
        "application/problem+json"
    ] * 4


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        (b"GARBAGE\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nno header\r\n\r\n", 400),
        (b"GET /" + b"x" * 9_000 + b" HTTP/1.1\r\n\r\n", 414),
        (
            b"POST /v1/batches HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n"
            b"Content-Type: application/json\r\n\r\nno chunk\r\n\r\n",
            400,
        ),
    ],
    ids=["no request", "no header", "too long", "no chunk"],
)
def test_what_is_no_http_is_a_problem_too(request_bytes: bytes, status: int, api: Api) -> None:
    """Problem details even before the application sees a request."""
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(request_bytes)
        response = http.client.HTTPResponse(connection)
        response.begin()
        problem = json.loads(response.read())

    assert response.status == status
    assert response.headers["Content-Type"] == "application/problem+json"
    assert problem["status"] == status
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "Traceback" not in api.process.logs()


@pytest.mark.parametrize(
    ("head", "status"),
    [
        ("GET /v1/products HTTP/1.1\r\n", 400),
        ("GET /v1/products HTTP/1.1\r\nHost:\r\n", 400),
        ("GET /v1/products HTTP/1.0\r\n", 400),
        ("GET / HTTP/1.0\r\n", 400),
        ("GET /docs HTTP/1.1\r\n", 400),
        ("GET /healthz HTTP/1.1\r\n", 400),
        ("GET /healthz HTTP/1.0\r\n", 200),
        ("GET /readyz HTTP/1.0\r\n", 200),
        ("GET /metrics HTTP/1.0\r\nHost: localhost\r\n", 200),
        ("GET /v1/products HTTP/1.1\r\nHost: localhost\r\nHost: localhost\r\n", 400),
    ],
)
def test_only_a_health_check_of_old_http_may_come_without_a_host(
    head: str, status: int, api: Api
) -> None:
    with socket.create_connection(("127.0.0.1", api.port), timeout=10) as connection:
        connection.sendall(f"{head}\r\n".encode())
        response = http.client.HTTPResponse(connection)
        response.begin()
        response.read()

    assert response.status == status


def test_the_processes_agree_on_commands_and_figures(api: Api) -> None:
    """One key sent at once to both is one command, and each tells of the requests of both."""
    headers = {"Idempotency-Key": "key-1"}
    before = counted(api)[0]

    def post(_: int) -> tuple[int, str | None]:
        response = api.request("POST", "/v1/allocations", json.dumps(LINE), headers)
        return response.status, response.headers["Location"]

    with ThreadPoolExecutor(8) as threads:
        answers = set(threads.map(post, range(40)))

    assert {status for status, _ in answers} == {202}
    assert len(answers) == 1
    assert counted(api) == [before + 40] * 8


def test_longest_ids_fit_into_an_address(api: Api) -> None:
    """255 characters of four bytes, percent-encoded, twice."""
    longest = "%F0%9F%AA%91" * 255

    response = api.request("DELETE", f"/v1/allocations/{longest}/{longest}")

    assert response.status == 202


def test_a_stop_lets_go_of_waiting_requests_and_leaves_nothing(
    processes: StartProcess, sqlite_url: str, engine: Engine, tmp_path: Path
) -> None:
    """SIGTERM: who waits for an outcome is told 202 at once, the exit status is 0."""
    port = free_ports(1)[0]
    process = processes(COMMAND, name="api", env=environment(tmp_path, port))
    process.wait_for_log("The API is ready")
    api = Api(process, port)

    def accepted() -> bool:
        with engine.connect() as connection:
            return bool(connection.scalar(select(func.count()).select_from(commands)))

    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(
            api.request, "POST", "/v1/allocations", json.dumps(LINE), {"Prefer": "wait=30"}
        )
        eventually(accepted)
        status = process.stop(within=10)

    assert waiting.result().status == 202
    assert status == 0
    assert list(tmp_path.glob("allocation-metrics-*")) == []


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({}, "the API keys can't be read from the database"),
        ({"ALLOCATION_API_KEY": "fifteen letters"}, "has fewer than 16 characters"),
    ],
)
def test_a_server_that_others_can_reach_wants_a_key_that_nobody_guesses(
    processes: StartProcess, tmp_path: Path, settings: dict[str, str], sentence: str
) -> None:
    """It refuses to start while there is none, or while it can't know, and says so."""
    env = environment(tmp_path, free_ports(1)[0]) | {"ALLOCATION_HOST": "0.0.0.0"}

    process = processes(COMMAND, name="api", env=env | settings)

    assert process.wait() == 1
    assert sentence in process.logs()
    assert "Traceback" not in process.logs()
    assert "fifteen letters" not in process.logs()
