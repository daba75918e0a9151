"""Fixtures for every test: servers of its own, databases and virtual hosts, processes, nodes."""

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

# pytest-celery has a parametrised fixture of this name, which would start containers.
from celery.contrib.pytest import celery_worker  # noqa: F401
from kombu import Connection
from pytest_celery import (
    CeleryBrokerCluster,
    CeleryTestBroker,
    CeleryTestWorker,
    CeleryWorkerCluster,
)

from allocation.adapters.rabbitmq import topology
from tests.nodes import BrokerServer, WorkerProcess
from tests.servers.databases import Databases
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import Process
from tests.servers.programs import find_promtool
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.shared_vhost import SharedVhost
from tests.servers.vhosts import Vhosts

_PROCESSES: pytest.StashKey[list[Process]] = pytest.StashKey()


def pytest_addoption(parser: pytest.Parser) -> None:
    """The fault matrix repeats what it did when it is given the same seed."""
    parser.addoption(
        "--fault-seed", type=int, default=random.randrange(10**6), help="of tests/faults"
    )


def pytest_report_header(config: pytest.Config) -> str:
    return f"fault seed: {config.option.fault_seed}"


def pytest_sessionstart() -> None:
    """A termination ends the run as Ctrl-C does: fixtures are torn down, servers stopped.

    Ctrl-C itself is ignored by what a shell runs in the background, and by all that this starts.
    """
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    """An impatient second Ctrl-C must not leave servers behind: stopping them takes a second."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long files first: so no process works alone on one at the end."""
    items.sort(key=lambda item: item.get_closest_marker("long") is None)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed test shows how the logs of its processes end."""
    report = yield
    if report.failed:
        for process in item.stash.get(_PROCESSES, []):
            report.sections.append((f"log of {process.name}", process.log_tail()))
    return report


@pytest.fixture(scope="session")
def say(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Prints a line for whoever waits for the run, past the capturing of output."""
    capture = request.config.pluginmanager.getplugin("capturemanager")

    def say(line: str) -> None:
        with capture.global_and_fixture_disabled():
            print(f"\n{line}", flush=True)

    return say


@pytest.fixture(scope="session")
def promtool(say: Callable[[str], None]) -> Callable[..., str]:
    """Runs Prometheus's own checker: `promtool("check", "rules", file)` is what it says.

    `said` is what it reads. Fails the test where promtool finds a fault, with what that is.
    """
    program = find_promtool(say)

    def run(*arguments: str | Path, said: str | None = None) -> str:
        done = subprocess.run(
            [program, *arguments], input=said, capture_output=True, text=True, check=False
        )
        told = done.stdout + done.stderr
        assert done.returncode == 0, told
        return told

    return run


@pytest.fixture(scope="session")
def _postgres_of_the_session() -> Iterator[PrivatePostgres]:
    server = PrivatePostgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def _rabbitmq_of_the_session(say: Callable[[str], None]) -> Iterator[PrivateRabbitMQ]:
    server = PrivateRabbitMQ(say)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def private_postgres(_postgres_of_the_session: PrivatePostgres) -> Iterator[PrivatePostgres]:
    """A server that the test may stop, kill and start; it runs again for the next test."""
    yield _postgres_of_the_session
    if not _postgres_of_the_session.running:
        _postgres_of_the_session.start()


@pytest.fixture
def private_rabbitmq(_rabbitmq_of_the_session: PrivateRabbitMQ) -> Iterator[PrivateRabbitMQ]:
    """A node that the test may stop, kill and start; it runs again for the next test."""
    yield _rabbitmq_of_the_session
    if not _rabbitmq_of_the_session.running:
        _rabbitmq_of_the_session.start()


@pytest.fixture(scope="session")
def _given_rabbitmq(say: Callable[[str], None]) -> Vhosts | None:
    """The broker at TEST_BROKER_URL, if one is given.

    Its management API is at TEST_BROKER_MANAGEMENT_URL, port 15672 of its host unless set.
    """
    url = os.environ.get("TEST_BROKER_URL")
    if not url:
        return None
    management = os.environ.get(
        "TEST_BROKER_MANAGEMENT_URL", f"http://{Connection(url).hostname}:15672"
    )
    broker = Vhosts(url, management)
    try:
        broker.delete_vhost(broker.create_vhost())
    except OSError as problem:
        say(
            f"{management} gives no virtual hosts ({problem}): every test empties and uses"
            " the one of TEST_BROKER_URL"
        )
        return SharedVhost(url, management)
    return broker


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Databases:
    """The server at TEST_DATABASE_URL; a private one if none is given or the test breaks it."""
    url = os.environ.get("TEST_DATABASE_URL")
    if url and "private_postgres" not in request.fixturenames:
        return Databases(url)
    server: PrivatePostgres = request.getfixturevalue("_postgres_of_the_session")
    return server


@pytest.fixture
def rabbitmq(request: pytest.FixtureRequest, _given_rabbitmq: Vhosts | None) -> Vhosts:
    """The broker at TEST_BROKER_URL; a private one if none is given or the test breaks it."""
    if _given_rabbitmq and "private_rabbitmq" not in request.fixturenames:
        return _given_rabbitmq
    server: PrivateRabbitMQ = request.getfixturevalue("_rabbitmq_of_the_session")
    return server


@pytest.fixture(scope="session")
def _templates() -> Iterator[dict[str, str]]:
    """By the server's URL: the URL of its database with the newest schema."""
    made: dict[str, str] = {}
    yield made
    if given := os.environ.get("TEST_DATABASE_URL"):
        server = Databases(given)
        for url in made.values():
            server.drop_database(url)


@pytest.fixture
def migrated_template(postgres: Databases, _templates: dict[str, str]) -> str:
    """The URL of a database with the newest schema, which nobody may connect to."""
    # Only tests that need a database need the migrations to work.
    from allocation.adapters.sql.migrations import upgrade

    if postgres.url not in _templates:
        url = postgres.create_database()
        upgrade(url)
        _templates[postgres.url] = url
    return _templates[postgres.url]


@pytest.fixture
def database_url(postgres: Databases, migrated_template: str) -> Iterator[str]:
    """A fresh PostgreSQL database with the newest schema."""
    url = postgres.create_database(template=migrated_template)
    yield url
    postgres.drop_database(url)


@pytest.fixture
def empty_database_url(postgres: Databases) -> Iterator[str]:
    """A fresh PostgreSQL database without any table."""
    url = postgres.create_database()
    yield url
    postgres.drop_database(url)


@pytest.fixture
def broker_url(rabbitmq: Vhosts) -> Iterator[str]:
    """A fresh virtual host on RabbitMQ."""
    url = rabbitmq.create_vhost()
    yield url
    rabbitmq.delete_vhost(url)


@pytest.fixture
def state_dir(tmp_path: Path) -> Path:
    """A fresh folder for what the embedded default keeps."""
    folder = tmp_path / "state"
    folder.mkdir()
    return folder


@pytest.fixture
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts commands, each logging to a file of its name; stops them at the end, latest first."""
    started: list[Process] = []
    request.node.stash[_PROCESSES] = started

    def start(command: list[str | Path], *, name: str, **options: Any) -> Process:
        """`options` as for Process; two of one name get numbers."""
        number = sum(process.name.split("#")[0] == name for process in started)
        log = tmp_path / (f"{name}#{number + 1}.log" if number else f"{name}.log")
        process = Process(command, log=log, **options).start()
        started.append(process)
        return process

    yield start
    running = [process for process in reversed(started) if process.running]
    for process in running:
        process.send(signal.SIGTERM)  # all at once, then they end side by side
    for process in running:
        process.stop()


@pytest.fixture
def celery_broker_cluster(rabbitmq: Vhosts, broker_url: str) -> Iterator[CeleryBrokerCluster]:
    """pytest-celery's brokers: one RabbitMQ, on the test's own virtual host."""
    cluster = CeleryBrokerCluster(CeleryTestBroker(BrokerServer(rabbitmq, broker_url)))
    yield cluster
    cluster.teardown()


@pytest.fixture
def celery_backend_cluster() -> None:
    """pytest-celery's result backends: none, outcomes are rows of the database."""


@pytest.fixture
def celery_worker_cluster(
    processes: Callable[..., Process], broker_url: str, database_url: str, state_dir: Path
) -> Iterator[CeleryWorkerCluster]:
    """pytest-celery's workers: one `celery -A allocation worker` of two children, ready."""
    with Connection(broker_url) as connection:
        topology.declare(connection)
    container = WorkerProcess(
        processes,
        app="allocation",
        options=("--concurrency=2",),
        env={
            "ALLOCATION_BROKER_URL": broker_url,
            "ALLOCATION_DATABASE_URL": database_url,
            "ALLOCATION_STATE_DIR": str(state_dir),
        },
    )
    cluster = CeleryWorkerCluster(CeleryTestWorker(container, app=None))
    cluster.ready()
    yield cluster
    container.teardown()
