"""Fixtures for every test: servers, a database and a virtual host of its own, processes, nodes."""

import os
import random
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from itertools import chain
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
from allocation.messaging.connection import SPOOL_TRANSPORT
from tests.nodes import BrokerServer, WorkerProcess
from tests.servers.databases import Databases
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import Process, Processes
from tests.servers.programs import find_promtool
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.shared import Run, run
from tests.servers.shared_vhost import SharedVhost
from tests.servers.vhosts import Vhosts

PROCESSES: pytest.StashKey[list[list[Process]]] = pytest.StashKey()
_RUN: pytest.StashKey[Run] = pytest.StashKey()
_RUN_FOLDER = "run_folder"


def pytest_addoption(parser: pytest.Parser) -> None:
    """The fault matrix repeats what it did when it is given the same seed."""
    parser.addoption(
        "--fault-seed", type=int, default=random.randrange(10**6), help="of tests/faults"
    )


def pytest_configure(config: pytest.Config) -> None:
    """The processes of a run share its servers, which end with the main process."""
    if given := getattr(config, "workerinput", {}).get(_RUN_FOLDER):
        config.stash[_RUN] = Run(Path(given))
        return
    opened = ExitStack()
    config.stash[_RUN] = opened.enter_context(run())
    config.add_cleanup(opened.close)
    if given := os.environ.get("TEST_DATABASE_URL"):
        opened.callback(config.stash[_RUN].drop_templates, Databases(given))


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a process of pytest-xdist which run it belongs to."""
    node.workerinput[_RUN_FOLDER] = str(node.config.stash[_RUN].folder)


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


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Put tests that must share a process in one group, and begin with the groups and long tests.

    All tests that stop a server run in the one process that starts a private server for them, and
    those with the whole service in the one that starts it.
    """
    for item in items:
        names = item.fixturenames if isinstance(item, pytest.Function) else []
        if "postgresql" in item.name or {"postgres", "rabbitmq"}.intersection(names):
            item.add_marker(pytest.mark.server)
        for private in ("private_rabbitmq", "private_postgres"):
            if private in names:
                item.add_marker(pytest.mark.xdist_group(private))
                break
        if "house_of_the_run" in names:
            item.add_marker(pytest.mark.xdist_group("house"))

    def turn(item: pytest.Item) -> tuple[bool, bool]:
        return (
            item.get_closest_marker("xdist_group") is None,
            item.get_closest_marker("long") is None,
        )

    items.sort(key=turn)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed test shows how the logs of its processes end."""
    report = yield
    if report.failed:
        started = item.stash.get(PROCESSES, [])
        for process in chain.from_iterable(started):
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
def shared_run(request: pytest.FixtureRequest) -> Run:
    """What the processes of this run share."""
    return request.config.stash[_RUN]


@pytest.fixture(scope="session")
def _postgres_of_the_process() -> Iterator[PrivatePostgres]:
    server = PrivatePostgres()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture(scope="session")
def _rabbitmq_of_the_process(say: Callable[[str], None]) -> Iterator[PrivateRabbitMQ]:
    server = PrivateRabbitMQ(say)
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def private_postgres(_postgres_of_the_process: PrivatePostgres) -> Iterator[PrivatePostgres]:
    """A server that the test may stop, kill and start; it runs again for the next test."""
    yield _postgres_of_the_process
    if not _postgres_of_the_process.running:
        _postgres_of_the_process.start()


@pytest.fixture
def private_rabbitmq(_rabbitmq_of_the_process: PrivateRabbitMQ) -> Iterator[PrivateRabbitMQ]:
    """A node that the test may stop, kill and start; it runs again for the next test."""
    yield _rabbitmq_of_the_process
    if not _rabbitmq_of_the_process.running:
        _rabbitmq_of_the_process.start()


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


@pytest.fixture(scope="session")
def shared_postgres(shared_run: Run) -> Databases:
    """The server at TEST_DATABASE_URL, or the run's."""
    url = os.environ.get("TEST_DATABASE_URL")
    return Databases(url) if url else shared_run.postgres()


@pytest.fixture(scope="session")
def shared_rabbitmq(
    _given_rabbitmq: Vhosts | None, shared_run: Run, say: Callable[[str], None]
) -> Vhosts:
    """The broker at TEST_BROKER_URL, or the run's."""
    return _given_rabbitmq or shared_run.rabbitmq(say)


@pytest.fixture
def postgres(request: pytest.FixtureRequest) -> Databases:
    """The shared server; a private one if the test breaks it."""
    is_private = "private_postgres" in request.fixturenames
    server: Databases = request.getfixturevalue(
        "_postgres_of_the_process" if is_private else "shared_postgres"
    )
    return server


@pytest.fixture
def rabbitmq(request: pytest.FixtureRequest) -> Vhosts:
    """The shared broker; a private one if the test breaks it."""
    is_private = "private_rabbitmq" in request.fixturenames
    server: Vhosts = request.getfixturevalue(
        "_rabbitmq_of_the_process" if is_private else "shared_rabbitmq"
    )
    return server


@pytest.fixture
def migrated_template(postgres: Databases, shared_run: Run) -> str:
    """The URL of a database with the newest schema, which nobody may connect to."""
    return shared_run.template(postgres)


@pytest.fixture(scope="session")
def migrated_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SQLite database with the schema and nothing in it, to be copied."""
    # Only tests that need a database need the migrations to work.
    from allocation.adapters.sql.migrations import upgrade

    file = tmp_path_factory.mktemp("migrated") / "allocation.db"
    upgrade(f"sqlite:///{file}")
    return file


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
def prepared(state_dir: Path, migrated_file: Path) -> Path:
    """A folder as `allocation migrate` and `allocation topology` leave it."""
    (state_dir / "allocation.db").write_bytes(migrated_file.read_bytes())
    with Connection(f"spool://{state_dir}/spool", transport=SPOOL_TRANSPORT) as connection:
        topology.declare(connection)
    return state_dir


@pytest.fixture
def processes(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    """Starts commands, each logging to a file of its name; stops them at the end, latest first."""
    made = Processes(tmp_path)
    request.node.stash.setdefault(PROCESSES, []).append(made.started)
    yield made.start
    made.stop()


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
