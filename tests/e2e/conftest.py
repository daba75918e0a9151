"""The whole service as real processes on a private RabbitMQ and PostgreSQL."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from kombu import Connection
from sqlalchemy import Engine

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import database
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually


@dataclass
class House:
    """Every process of the service, and how to speak with it."""

    broker_url: str
    engine: Engine
    environment: dict[str, str]
    port: int
    processes: dict[str, Process]

    def ask(
        self, method: str, path: str, body: object = None, **headers: str
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of an HTTP request; `body` may be bytes."""
        data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}",
            data=data,
            method=method,
            headers={"Content-Type": "application/json"}
            | {name.replace("_", "-"): value for name, value in headers.items()},
        )
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def do(self, method: str, path: str, body: object = None) -> tuple[int, dict[str, Any]]:
        """As `ask`, waiting for the outcome."""
        return self.ask(method, path, body, Prefer="wait=20")

    def knows(self, orderid: str) -> bool:
        """Whether there is a line of this order."""
        return self.ask("GET", f"/v1/allocations/{orderid}")[0] == 200

    def run(self, *arguments: str) -> Process:
        """Run a command of the service's with its settings, and wait for its end."""
        process = self.start([sys.executable, *arguments], name="command", env=self.environment)
        process.wait(60)
        return process

    start: Callable[..., Process]


_PYTHON = sys.executable

PROGRAMS = {
    "api": ([_PYTHON, "-m", "allocation", "api"], "ready at"),
    "worker": (
        [_PYTHON, "-m", "celery", "-A", "allocation", "worker", "-c2", "--without-mingle"],
        "ready",
    ),
    "relay": ([_PYTHON, "-m", "allocation", "relay"], "ready: relaying"),
    "inbound": ([_PYTHON, "-m", "allocation", "inbound"], "ready: consuming"),
    "warehouse": ([_PYTHON, "-m", "workers.warehouse"], "ready: consuming"),
    "notification": ([_PYTHON, "-m", "workers.notification"], "ready: consuming"),
}
"""By name: the command of each process, and what it logs once it works."""


def open_house(
    start: Callable[..., Process],
    names: Iterable[str],
    broker_url: str,
    database_url: str,
    state_dir: Path,
    warehouse_url: str = "",
    **variables: str,
) -> House:
    """Start the processes of these names by `start`, and wait until all are ready."""
    [port] = free_ports(1)
    environment = {
        "ALLOCATION_BROKER_URL": broker_url,
        "ALLOCATION_DATABASE_URL": database_url,
        "ALLOCATION_STATE_DIR": str(state_dir),
        "ALLOCATION_PORT": str(port),
        "ALLOCATION_API_WORKERS": "1",
        "WAREHOUSE_DATABASE_URL": warehouse_url,
        "NOTIFICATION_DATABASE_URL": f"sqlite:///{state_dir}/notification.db",
        **variables,
    }
    with Connection(broker_url) as connection:
        topology.declare(connection)
    started = {name: start(PROGRAMS[name][0], name=name, env=environment) for name in names}
    for name, process in started.items():
        process.wait_for_log(PROGRAMS[name][1], within=40)
    engine = database.engine(database_url)
    made = House(broker_url, engine, environment, port, started, start)
    eventually(lambda: made.ask("GET", "/readyz")[0] == 200, what="the API ready")
    return made


@pytest.fixture
def process_environment() -> dict[str, str]:
    """Variables that every process of the house gets besides; a module may override it."""
    return {}


@pytest.fixture
def house(
    processes: Callable[..., Process],
    process_environment: dict[str, str],
    broker_url: str,
    database_url: str,
    empty_database_url: str,
    state_dir: Path,
) -> Iterator[House]:
    """All of it, ready."""
    made = open_house(
        processes,
        PROGRAMS,
        broker_url,
        database_url,
        state_dir,
        warehouse_url=empty_database_url,
        **process_environment,
    )
    yield made
    made.engine.dispose()
