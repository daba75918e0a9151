"""Flower and the worker as real processes: it shows the workers, and each command as its task."""

import base64
import http.client
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection

from allocation.adapters.rabbitmq import topology
from allocation.messaging.connection import SPOOL_TRANSPORT
from tests.servers.ports import free_ports
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

LOGIN = "watcher:of-the-tests"


@dataclass
class Watched:
    """A broker and a database with a worker and Flower on them."""

    broker_url: str
    transport: str | None
    environment: dict[str, str]
    port: int
    processes: Callable[..., Process]

    def start(self, name: str, *options: str) -> Process:
        """Start `celery -A allocation NAME`."""
        command = [sys.executable, "-m", "celery", "-A", "allocation", name, *options]
        return self.processes(command, name=name, env=self.environment)

    def flower(self) -> Process:
        started = self.start("flower", "--address=127.0.0.1", f"--port={self.port}")
        started.wait_for_log("Visit me at", within=40)
        return started

    def worker(self) -> Process:
        started = self.start("worker", "-c1", "--without-gossip", "--without-mingle")
        started.wait_for_log(" ready", within=40)
        return started

    def send(self, name: str, **body: object) -> str:
        """Send a command by name, as another service does; returns its id."""
        with Celery(broker=self.broker_url) as client:
            client.conf.broker_transport = self.transport
            if self.transport is None:
                client.conf.broker_transport_options = {"confirm_publish": True}
            commands = "allocation.commands"
            sent = client.send_task(name, kwargs=body, exchange=commands, routing_key=commands)
        return str(sent.id)

    def task(self, command_id: str, state: str, within: float = 20) -> dict[str, Any]:
        """What Flower tells of the command, once it is in this state."""

        def seen() -> dict[str, Any] | None:
            status, told = ask(self.port, f"/api/task/info/{command_id}", LOGIN)
            return told if status == 200 and told["state"] == state else None

        return eventually(seen, within=within, what=f"{command_id} as {state} in Flower")

    def online(self) -> list[str]:
        """The workers that Flower takes to be there."""
        _, told = ask(self.port, "/api/workers?status=true", LOGIN)
        return [name for name, is_there in told.items() if is_there]


def ask(port: int, path: str, login: str | None) -> tuple[int, Any]:
    """Status and JSON that Flower answers; None for what is no JSON."""
    headers = {}
    if login is not None:
        headers["Authorization"] = f"Basic {base64.b64encode(login.encode()).decode()}"
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, None


@pytest.fixture(params=["rabbitmq", "spool"])
def watched(
    request: pytest.FixtureRequest,
    processes: Callable[..., Process],
    database_url: str,
    state_dir: Path,
) -> Watched:
    """Nothing runs yet; the broker is declared."""
    transport = SPOOL_TRANSPORT if request.param == "spool" else None
    broker_url = (
        f"spool://{state_dir}/spool" if transport else request.getfixturevalue("broker_url")
    )
    with Connection(broker_url, transport=transport) as connection:
        topology.declare(connection)
    [port] = free_ports(1)
    environment = {
        "ALLOCATION_BROKER_URL": broker_url,
        "ALLOCATION_DATABASE_URL": database_url,
        "ALLOCATION_STATE_DIR": str(state_dir),
        "FLOWER_BASIC_AUTH": LOGIN,
    }
    return Watched(broker_url, transport, environment, port, processes)


def test_flower_shows_the_worker_online_and_each_command_as_a_task_with_its_outcome(
    watched: Watched,
) -> None:
    """Also when it was there before the worker. A refusal is an outcome, so it is a SUCCESS."""
    watched.flower()
    assert watched.online() == []
    watched.worker()
    [worker] = eventually(watched.online, within=20, what="the worker online in Flower")

    watched.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    allocated = watched.send("allocation.allocate", orderid="o1", sku="LAMP", qty=3)
    refused = watched.send("allocation.allocate", orderid="o1", sku="CHAIR", qty=1)

    shown = [watched.task(command_id, "SUCCESS") for command_id in (allocated, refused)]
    told = ("uuid", "name", "args", "kwargs", "worker", "result")
    assert [{name: task[name] for name in told} for task in shown] == [
        {
            "uuid": allocated,
            "name": "allocation.allocate",
            "args": "()",
            "kwargs": "{'orderid': 'o1', 'sku': 'LAMP', 'qty': 3}",
            "worker": worker,
            "result": "{'status': 'allocated', 'batchref': 'b1', 'eta': None}",
        },
        {
            "uuid": refused,
            "name": "allocation.allocate",
            "args": "()",
            "kwargs": "{'orderid': 'o1', 'sku': 'CHAIR', 'qty': 1}",
            "worker": worker,
            "result": "{'refused': 'unknown sku', 'field': 'sku', 'sku': 'CHAIR'}",
        },
    ]


def test_flower_shows_a_command_that_is_tried_again_and_one_that_failed_with_their_reasons(
    watched: Watched, private_postgres: PrivatePostgres
) -> None:
    """The one ends as SUCCESS, the other as FAILURE: it is a dead letter then."""
    watched.worker()
    watched.flower()
    eventually(watched.online, within=20, what="the worker online in Flower")
    batch = watched.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    watched.task(batch, "SUCCESS")
    private_postgres.kill()

    delayed = watched.send("allocation.allocate", orderid="o1", sku="LAMP", qty=3)
    failed = watched.send("allocation.allocate", orderid="o2", sku="LAMP", qty=3, colour="red")

    retried = watched.task(delayed, "RETRY")
    failure = watched.task(failed, "FAILURE")
    private_postgres.start()
    assert "StorageUnavailable" in retried["exception"]
    assert "UnknownFields" in failure["exception"]
    assert "colour" in failure["exception"]
    assert watched.task(delayed, "SUCCESS", within=40)["retries"] >= 1


def test_flower_shows_how_a_worker_is_configured(watched: Watched) -> None:
    """Which it asks the worker for; the worker's log says nothing of it."""
    worker = watched.worker()
    watched.flower()

    def configured() -> list[dict[str, Any]]:
        _, told = ask(watched.port, "/api/workers?refresh=1", LOGIN)
        return [each["conf"] for each in told.values() if "conf" in each]

    [shown] = eventually(configured, within=20, what="the worker's settings in Flower")
    assert shown["task_default_queue"] == "allocation.commands"
    assert "Traceback" not in worker.logs()


def test_no_page_of_flower_can_be_framed(watched: Watched) -> None:
    watched.flower()
    login = {"Authorization": f"Basic {base64.b64encode(LOGIN.encode()).decode()}"}

    paths = {"/workers": 200, "/static/js/flower.js": 200, "/api/workers": 200, "/nowhere": 404}
    for path, status in [*paths.items(), ("/broker", 401)]:
        connection = http.client.HTTPConnection("127.0.0.1", watched.port, timeout=20)
        connection.request("GET", path, headers=login if status != 401 else {})
        answer = connection.getresponse()

        assert answer.status == status, path
        assert answer.headers["X-Frame-Options"] == "DENY", path
        assert answer.headers["Content-Security-Policy"] == "frame-ancestors 'none'", path
        connection.close()


def test_without_the_login_flower_tells_nothing(watched: Watched) -> None:
    """Neither to who has none, nor to who guesses."""
    watched.flower()

    paths = ("/api/workers", "/api/tasks", "/workers")
    answers = [ask(watched.port, path, login)[0] for path in paths for login in (None, "a:b")]
    assert answers == [401] * 6
