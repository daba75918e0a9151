"""The bench's own PostgreSQL and RabbitMQ, and what a row needs of them."""

import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psycopg2
import yaml
from kombu import Connection

from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import ROOT, Process, clean_environment
from tests.servers.rabbitmq import PrivateRabbitMQ


def _shipped() -> dict[str, str]:
    """The settings of PostgreSQL in compose.yaml."""
    services = yaml.safe_load((ROOT / "compose.yaml").read_text())["services"]
    options = services["postgres"]["command"][1:]
    return dict(option.removeprefix("-c").split("=", 1) for option in options)


SHIPPED = _shipped()
SETTINGS = {
    # As in production: a commit is on the disk when it returns.
    "fsync": "on",
    "synchronous_commit": "on",
    # The database itself says when each row was committed; asked for after the clock has stopped.
    "track_commit_timestamp": "on",
}


class Servers:
    """Started by `start`, ended by `remove`; each row has databases and virtual hosts of its own.

    What a row opens it puts on `opened`, which is closed after the row.
    """

    def __init__(self, settings: Mapping[str, str]) -> None:
        self.settings = SETTINGS | dict(settings)
        self.opened = ExitStack()
        self.folder = Path(tempfile.mkdtemp(prefix="allocation-bench-"))
        self.postgres = PrivatePostgres(settings=self.settings)
        self.rabbitmq = PrivateRabbitMQ()
        self._template = ""

    def start(self) -> None:
        self.postgres.start()
        self.rabbitmq.start()
        self._template = self.postgres.create_database()
        run("allocation", "migrate", env={"ALLOCATION_DATABASE_URL": self._template})

    def database(self) -> str:
        """The URL of a new database with the tables of `allocation migrate`."""
        return self.postgres.create_database(self._template)

    def empty_database(self) -> str:
        return self.postgres.create_database()

    def drop(self, url: str) -> None:
        self.postgres.drop_database(url)

    def broker(self) -> str:
        """The URL of a new virtual host with the queues of `allocation topology`."""
        url = self.rabbitmq.create_vhost()
        run("allocation", "topology", env={"ALLOCATION_BROKER_URL": url})
        return url

    def process(self, command: list[str], name: str, env: Mapping[str, str]) -> Process:
        """A process of Python, not started yet."""
        return Process([sys.executable, *command], log=self.folder / f"{name}.log", env=env)

    def versions(self) -> dict[str, str]:
        connection = connect(self.postgres.url)
        with connection, connection.cursor() as cursor:
            cursor.execute("SHOW server_version")
            postgres = cursor.fetchone()[0]
        connection.close()
        with Connection(self.rabbitmq.url) as broker:
            broker.connect()
            rabbitmq = broker.connection.server_properties["version"]
        return {"postgresql": str(postgres), "rabbitmq": str(rabbitmq)}

    def remove(self) -> None:
        """End everything, and remove all files."""
        with ExitStack() as stack:
            stack.callback(shutil.rmtree, self.folder)
            stack.callback(self.postgres.remove)
            stack.callback(self.rabbitmq.remove)
            stack.push(self.opened)


def dsn(url: str) -> str:
    """The URL as psycopg2 takes it."""
    return url.replace("postgresql+psycopg2://", "postgresql://")


def connect(url: str) -> Any:
    """A connection of which every statement is a transaction."""
    connection = psycopg2.connect(dsn(url))
    connection.autocommit = True
    return connection


def query(url: str, statement: str, parameters: object = None) -> list[tuple[Any, ...]]:
    """The rows of one statement, by a connection of its own; none when it returns none."""
    connection = connect(url)
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement, parameters)
            return list(cursor.fetchall()) if cursor.description else []
    finally:
        connection.close()


def run(module: str, *args: str, env: Mapping[str, str]) -> str:
    """What a command of ours prints; raises RuntimeError with all of it when it fails."""
    done = subprocess.run(
        [sys.executable, "-m", module, *args],
        env=clean_environment() | dict(env),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"{module} {' '.join(args)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout
