"""Many requests wait for outcomes in one process of the API, on PostgreSQL."""

import http.client
import json
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Engine, func, select, text

from allocation.adapters.sql import database
from allocation.adapters.sql.tables import commands
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract import codec
from allocation.domain.commands import CreateBatch
from allocation.service_layer.execution import execute_batch
from allocation.service_layer.unit_of_work import Message
from tests.servers.ports import free_ports
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

THREADS = 2
MANY = 200
STOCK = Message(UUID(int=1), CreateBatch("batch-1", "LAMP", MANY), UUID(int=1))
Answer = tuple[int, str | None, dict[str, Any]]


class Api:
    """One process of the API, callers that wait, and a hand that decides their commands."""

    def __init__(self, start: Callable[..., Process], url: str, folder: Path) -> None:
        [self._port] = free_ports(1)
        self._start = start
        self._env = {
            "ALLOCATION_DATABASE_URL": url,
            "ALLOCATION_STATE_DIR": str(folder),
            "ALLOCATION_PORT": str(self._port),
            "ALLOCATION_API_WORKERS": "1",
            "ALLOCATION_API_THREADS": str(THREADS),
        }
        self._callers = ThreadPoolExecutor(MANY)
        self.engine: Engine = database.engine(url)

    def open(self, **settings: str) -> Process:
        api = self._start(
            [sys.executable, "-m", "allocation", "api"], name="api", env=self._env | settings
        )
        api.wait_for_log("The API is ready")
        return api

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        """The status, whether it waited, and the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=60)
        typed = {"Content-Type": "application/json", **headers}
        connection.request(method, path, json.dumps(body) if body else None, typed)
        response = connection.getresponse()
        applied = response.headers["Preference-Applied"]
        answer = response.status, applied, json.loads(response.read())
        connection.close()
        return answer

    def allocate(self, number: int) -> Answer:
        line = {"orderid": f"order-{number}", "sku": "LAMP", "qty": 1}
        return self.call("POST", "/v1/allocations", line, Prefer="wait=30")

    def wait(self, requests: int) -> list[Future[Answer]]:
        """So many requests that wait, once all are accepted."""
        waiting = [self._callers.submit(self.allocate, number) for number in range(requests)]
        eventually(lambda: self.count("pending") == requests, within=30, what="all pending")
        return waiting

    def count(self, status: str) -> int:
        asked = select(func.count()).where(commands.c.status == status)
        with self.engine.connect() as connection:
            return connection.scalar(asked) or 0

    def decide(self) -> None:
        """Decide all that is pending, by one commit."""
        pending = select(commands).where(commands.c.status == "pending")
        with self.engine.connect() as connection:
            rows = connection.execute(pending).all()
        known = [
            Message(row.id, codec.parse_command(row.name, row.body), row.correlation_id)
            for row in rows
        ]
        execute_batch([STOCK, *known], SqlUnitOfWork(self.engine))

    def sessions(self) -> int:
        """Sessions at the database beside the test's own."""
        asked = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        with self.engine.connect() as connection:
            return connection.scalar(asked) or 0

    def close(self) -> None:
        self._callers.shutdown()
        self.engine.dispose()


@pytest.fixture
def api(processes: Callable[..., Process], database_url: str, tmp_path: Path) -> Iterator[Api]:
    made = Api(processes, database_url, tmp_path)
    yield made
    made.close()


def test_hundreds_wait_without_a_session_each_and_others_are_answered_meanwhile(api: Api) -> None:
    api.open()
    waiting = api.wait(MANY)

    other = api.call("GET", f"/v1/commands/{STOCK.id}")
    sessions = eventually(
        lambda: (count := api.sessions()) <= THREADS + 3 and count, what="idle sessions to close"
    )
    still_waiting = [each for each in waiting if not each.done()]
    api.decide()
    answers = [each.result() for each in waiting]

    assert other[0] == 404
    assert sessions >= 1
    assert len(still_waiting) == MANY
    assert {(status, applied) for status, applied, _ in answers} == {(201, "wait=30")}
    assert {body["batchref"] for _, _, body in answers} == {"batch-1"}


def test_one_more_than_there_are_places_is_answered_at_once(api: Api) -> None:
    api.open(ALLOCATION_API_WAITS="2")
    waiting = api.wait(2)

    status, applied, body = api.allocate(2)

    assert (status, applied, body["status"]) == (202, None, "pending")
    assert not any(each.done() for each in waiting)
    api.decide()
    assert [each.result()[0] for each in waiting] == [201, 201]


def test_a_stop_answers_all_that_wait(api: Api) -> None:
    process = api.open()
    waiting = api.wait(MANY)

    process.send(signal.SIGTERM)
    answers = [each.result() for each in waiting]

    assert {(status, applied) for status, applied, _ in answers} == {(202, None)}
    assert process.wait(10) == 0


def test_requests_wait_while_the_database_restarts(
    private_postgres: PrivatePostgres,
    processes: Callable[..., Process],
    database_url: str,
    tmp_path: Path,
) -> None:
    api = Api(processes, database_url, tmp_path)
    process = api.open()
    waiting = api.wait(20)

    api.engine.dispose()
    private_postgres.restart()
    process.wait_for_log("commits can't be read")
    waits_on = not any(each.done() for each in waiting)
    api.decide()
    answers = [each.result() for each in waiting]
    api.close()

    assert waits_on
    assert {(status, applied) for status, applied, _ in answers} == {(201, "wait=30")}
