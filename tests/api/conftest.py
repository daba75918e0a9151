"""The application on a database of its own, and a worker for it."""

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from flask.testing import FlaskClient
from sqlalchemy import Engine, Row, Select, select

from allocation import bootstrap
from allocation.adapters.sql import database, tables
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract import codec
from allocation.domain.commands import Command
from allocation.entrypoints.api import state
from allocation.entrypoints.api.app import create_app
from allocation.service_layer.execution import execute
from allocation.service_layer.unit_of_work import Message
from tests.api.browsing import Browser
from tests.api.conforming import ConformingClient

Serve = Callable[..., FlaskClient]


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """A fresh migrated SQLite database."""
    (tmp_path / "allocation.db").write_bytes(migrated_file.read_bytes())
    return f"sqlite:///{tmp_path}/allocation.db"


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Serve]:
    """Makes a client of the application with these settings: `serve(database_url=..., ...)`."""
    made: list[FlaskClient] = []

    def make(**settings: str) -> FlaskClient:
        monkeypatch.setenv("ALLOCATION_STATE_DIR", str(tmp_path))
        for name, value in settings.items():
            monkeypatch.setenv(f"ALLOCATION_{name.upper()}", value)
        app = create_app(bootstrap.build())
        app.test_client_class = ConformingClient
        made.append(app.test_client())
        return made[-1]

    yield make

    for client in made:
        state.of(client.application).stop()
        engine_of(client).dispose()


def engine_of(client: FlaskClient) -> Engine:
    """The engine that the client's application uses."""
    return state.of(client.application).dependencies.engine


@pytest.fixture
def client(serve: Serve, sqlite_url: str) -> FlaskClient:
    """A client of the application on SQLite, without a key."""
    return serve(database_url=sqlite_url)


@pytest.fixture
def engine(sqlite_url: str) -> Iterator[Engine]:
    """The SQLite database that `client` works on, seen from outside the application."""
    made = database.engine(sqlite_url)
    yield made
    made.dispose()


class Worker:
    """Decides every pending command of a database, in the order in which they came."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        """Go on deciding, until stopped."""
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        if self._thread.is_alive():
            self._thread.join()

    def decide(self, command: Command) -> None:
        """Decide a command that was never accepted."""
        command_id = uuid4()
        execute(Message(command_id, command, command_id), SqlUnitOfWork(self._engine))

    def decide_all(self) -> None:
        """Decide what is pending, and what follows from it."""
        pending = (
            select(tables.commands)
            .where(tables.commands.c.status == "pending")
            .order_by(tables.commands.c.accepted_at)
        )
        while rows := self._rows(pending):
            for row in rows:
                command = codec.parse_command(row.name, row.body)
                execute(Message(row.id, command, row.correlation_id), SqlUnitOfWork(self._engine))

    def _rows(self, statement: Select[Any]) -> Sequence[Row[Any]]:
        with self._engine.connect() as connection:
            return connection.execute(statement).all()

    def _run(self) -> None:
        while not self._stopping.wait(0.01):
            self.decide_all()


@pytest.fixture
def idle_worker(engine: Engine) -> Worker:
    """A worker for `client`'s database that works when it is told to."""
    return Worker(engine)


@pytest.fixture
def worker(idle_worker: Worker) -> Iterator[Worker]:
    """A worker that decides the commands that `client` sends."""
    idle_worker.start()
    yield idle_worker
    idle_worker.stop()


@pytest.fixture
def browser_of(serve: Serve, sqlite_url: str) -> Callable[..., Browser]:
    """Makes browsers of the application with these settings."""

    def make(**settings: str) -> Browser:
        app = serve(database_url=sqlite_url, **settings).application
        app.test_client_class = FlaskClient
        return Browser(app.test_client())

    return make


@pytest.fixture
def visitor(browser_of: Callable[..., Browser]) -> Browser:
    """A browser on this machine, where there is no key."""
    return browser_of()


@pytest.fixture
def shop(visitor: Browser, idle_worker: Worker) -> Callable[..., None]:
    """Posts bodies to paths of the API, and has them decided."""

    def post(*requests: tuple[str, Mapping[str, Any]]) -> None:
        for path, body in requests:
            assert visitor.client.post(path, json=body).status_code == 202
        idle_worker.decide_all()

    return post
