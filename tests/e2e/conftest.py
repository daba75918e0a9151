"""The whole service as real processes on a private RabbitMQ and PostgreSQL."""

import json
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote
from uuid import UUID, uuid4

import pytest
from kombu import Connection
from sqlalchemy import Engine, MetaData, Select, delete, func, select
from typer.testing import Result

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import database, tables
from tests.conftest import PROCESSES
from tests.invoking import invoke
from tests.servers.databases import Databases
from tests.servers.ports import free_ports
from tests.servers.processes import Process, Processes
from tests.servers.shared import Run
from tests.servers.shared_vhost import SharedVhost
from tests.servers.vhosts import Vhosts
from tests.waiting import eventually
from tests.workers.conftest import event, publish
from workers.notification.tables import metadata as notification_metadata
from workers.warehouse.tables import metadata as warehouse_metadata


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

SUBSCRIBERS = {"warehouse": warehouse_metadata, "notification": notification_metadata}
"""By name: the tables of each subscriber's database."""


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


@contextmanager
def running_house(
    names: Iterable[str],
    rabbitmq: Vhosts,
    postgres: Databases,
    template: str,
    folder: Path,
    **variables: str,
) -> Iterator[House]:
    """A house of these processes, which log to `folder`, with a broker and databases of its own."""
    broker_url = rabbitmq.create_vhost()
    database_url, warehouse_url = postgres.create_database(template), postgres.create_database()
    processes = Processes(folder)
    try:
        house = open_house(
            processes.start,
            names,
            broker_url,
            database_url,
            folder,
            warehouse_url,
            **variables,
        )
        yield house
        house.engine.dispose()
    finally:
        processes.stop()
        for url in (database_url, warehouse_url):
            postgres.drop_database(url)
        rabbitmq.delete_vhost(broker_url)


def empty(house: House, rabbitmq: Vhosts) -> None:
    """Wait until the house is at rest, then delete its stock, orders, keys, messages and mails.

    Queues that the test declared besides go too.
    """
    commands, outbox = tables.commands, tables.outbox
    unfinished = (
        select(func.count()).select_from(commands).where(commands.c.status == "pending"),
        select(func.count()).select_from(outbox).where(outbox.c.sent_at.is_(None)),
    )

    def finished() -> bool:
        with house.engine.connect() as connection:
            return [connection.scalar(count) for count in unfinished] == [0, 0]

    eventually(finished, within=20, what="everything decided and published")
    subscribers = {
        name: database.engine(house.environment[f"{name.upper()}_DATABASE_URL"])
        for name in SUBSCRIBERS
        if name in house.processes
    }
    last = event("allocated", 1, sku=f"last-{uuid4()}")
    publish(house.broker_url, last)
    for name, engine in subscribers.items():
        known = select(SUBSCRIBERS[name].tables["received"]).filter_by(event_id=UUID(last["id"]))

        def received(engine: Engine = engine, known: Select[Any] = known) -> bool:
            with engine.connect() as connection:
                return connection.execute(known).first() is not None

        eventually(received, within=20, what=f"the last event at the {name}")
    with Connection(house.broker_url) as connection:
        channel = connection.channel()
        vhost = quote(connection.virtual_host, safe="")
        queues: Any = rabbitmq.api("GET", f"/api/queues/{vhost}?disable_stats=true")
        for queue in {each["name"] for each in queues if not each["exclusive"]}:
            if queue not in topology.names() and not queue.startswith("celery"):
                channel.queue_delete(queue)
        for name in topology.names():
            channel.queue_purge(name)
    for name, engine in subscribers.items():
        delete_rows(engine, SUBSCRIBERS[name])
        engine.dispose()
    for mail in Path(house.environment["ALLOCATION_STATE_DIR"], "mails").glob("*.eml"):
        mail.unlink()
    with house.engine.connect() as connection:
        had_keys = connection.scalar(select(func.count()).select_from(tables.api_keys))
    delete_rows(house.engine, tables.metadata)
    if had_keys:  # once there was a key, the API asks for one until its end
        api = house.processes["api"]
        api.stop()
        api.start().wait_for_log(PROGRAMS["api"][1], within=40)


def delete_rows(engine: Engine, metadata: MetaData) -> None:
    with engine.begin() as transaction:
        for table in reversed(metadata.sorted_tables):
            transaction.execute(delete(table))


@pytest.fixture
def invoked(state_dir: Path) -> Callable[..., Result]:
    """Runs `allocation` with these arguments in this process, on the embedded default."""

    def run(*arguments: str | Path, **changes: str) -> Result:
        return invoke(*arguments, env={"ALLOCATION_STATE_DIR": str(state_dir)} | changes)

    return run


@pytest.fixture(scope="session")
def managed_rabbitmq(
    shared_rabbitmq: Vhosts, shared_run: Run, say: Callable[[str], None]
) -> Vhosts:
    """The shared broker; the run's own if that one gives no virtual hosts."""
    return shared_run.rabbitmq(say) if isinstance(shared_rabbitmq, SharedVhost) else shared_rabbitmq


@pytest.fixture(scope="session")
def house_of_the_run(
    managed_rabbitmq: Vhosts,
    shared_postgres: Databases,
    shared_run: Run,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[House]:
    """All of it, for every test with a house: a start costs 20 s of the processor's time.

    tests/conftest.py has these tests run in one process.
    """
    template = shared_run.template(shared_postgres)
    folder = tmp_path_factory.mktemp("house")
    with running_house(PROGRAMS, managed_rabbitmq, shared_postgres, template, folder) as house:
        yield house


@pytest.fixture
def empty_house(house_of_the_run: House, managed_rabbitmq: Vhosts) -> Iterator[House]:
    """Ready and empty; its processes run since other tests."""
    yield house_of_the_run
    empty(house_of_the_run, managed_rabbitmq)


@pytest.fixture
def house(
    request: pytest.FixtureRequest, empty_house: House, processes: Callable[..., Process]
) -> House:
    """All of it; what the test starts besides has ended before the house is emptied."""
    request.node.stash[PROCESSES].append(list(empty_house.processes.values()))
    return replace(empty_house, start=processes)


@pytest.fixture
def rabbitmq(request: pytest.FixtureRequest) -> Vhosts:
    """The broker with the house; a private one if the test breaks it."""
    is_private = "private_rabbitmq" in request.fixturenames
    server: Vhosts = request.getfixturevalue(
        "_rabbitmq_of_the_process" if is_private else "managed_rabbitmq"
    )
    return server


@pytest.fixture
def broker_url(request: pytest.FixtureRequest, rabbitmq: Vhosts) -> Iterator[str]:
    """The virtual host of the test's house; a fresh one if it has no house."""
    if "house" in request.fixturenames:
        house: House = request.getfixturevalue("house")
        yield house.broker_url
        return
    url = rabbitmq.create_vhost()
    yield url
    rabbitmq.delete_vhost(url)
