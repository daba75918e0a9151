"""The service's own processes on private servers, and a client that imports nothing of ours."""

import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from celery import Celery
from kombu import Connection, Queue
from sqlalchemy import Engine, select, text

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import database
from allocation.adapters.sql.tables import commands
from allocation.messaging import dead_letters
from allocation.messaging.dead_letters import DeadLetter
from tests.invoking import invoke
from tests.servers.processes import Process
from tests.waiting import eventually


@dataclass
class Service:
    """A migrated database and a declared broker, and how to start processes on them."""

    broker_url: str
    engine: Engine
    environment: dict[str, str]
    start_process: Callable[..., Process]

    def relay(self, name: str = "relay", **settings: str) -> Process:
        """Start a relay; it may have to stand by."""
        command = [sys.executable, "-m", "allocation", "relay"]
        return self.start_process(command, name=name, env=self.environment | settings)

    def inbound(self, name: str = "inbound", **settings: str) -> Process:
        """Start the inbound adapter, and wait until it consumes."""
        command = [sys.executable, "-m", "allocation", "inbound"]
        process = self.start_process(command, name=name, env=self.environment | settings)
        process.wait_for_log("ready: consuming")
        return process

    def refuse_rows(self, table: str) -> None:
        """Have PostgreSQL refuse each new row of the table: what needs one can't be decided."""
        with self.engine.begin() as connection:
            connection.execute(
                text(
                    f"CREATE FUNCTION refuse_{table}() RETURNS trigger LANGUAGE plpgsql AS"
                    f" $$ BEGIN RAISE EXCEPTION 'no row of {table} is taken'; END $$"
                )
            )
            connection.execute(
                text(
                    f"CREATE TRIGGER refuse BEFORE INSERT ON {table}"
                    f" FOR EACH ROW EXECUTE FUNCTION refuse_{table}()"
                )
            )

    def take_rows(self, table: str) -> None:
        """End `refuse_rows`."""
        with self.engine.begin() as connection:
            connection.execute(text(f"DROP FUNCTION refuse_{table}() CASCADE"))

    def outcome(self, command_id: str, within: float = 15) -> tuple[str, dict[str, Any]]:
        """Status and outcome of a command, once it has one."""
        query = select(commands).where(commands.c.id == command_id, commands.c.status != "pending")

        def decided() -> Any:
            with self.engine.connect() as connection:
                return connection.execute(query).one_or_none()

        row = eventually(decided, within=within, what=f"the outcome of {command_id}")
        return row.status, row.outcome

    def depth(self, queue: str) -> int | None:
        """Messages in a queue."""
        with Connection(self.broker_url) as connection:
            return topology.depth(connection, queue)

    def dead_letters(self, queue: str = topology.DEAD) -> list[DeadLetter]:
        """The dead letters of the queue, by default the commands'; they stay where they are."""
        with Connection(self.broker_url) as connection:
            return list(dead_letters.fetch(connection, queue, 1000))

    def messages(self, queue: str) -> list[Any]:
        """The messages of a queue, which they leave."""
        with Connection(self.broker_url) as connection:
            taken = Queue(queue)(connection.channel())
            return list(iter(lambda: taken.get(no_ack=True), None))

    def run(self, *arguments: str, status: int = 0) -> str:
        """What `allocation ARGUMENTS` prints; it has to end with this exit status."""
        ended = invoke(*arguments, env=self.environment)
        assert ended.exit_code == status, ended.output
        return ended.output


@dataclass
class BareClient:
    """What another service has: Celery, an address and names."""

    broker_url: str
    headers: Mapping[str, str] | None = None

    def celery(self) -> Celery:
        """An app whose `send_task` returns once the broker has the task.

        Without confirms a quorum queue may lose the last ones that were sent before a connection
        was closed.
        """
        return Celery(broker=self.broker_url, broker_transport_options={"confirm_publish": True})

    def send(self, name: str, *args: object, **body: object) -> str:
        """Send a task by name; returns its id."""
        with self.celery() as client:
            sent = client.send_task(
                name,
                args=args,
                kwargs=body,
                headers=self.headers,
                exchange="allocation.commands",
                routing_key="allocation.commands",
            )
        return str(sent.id)

    def send_raw(self, body: bytes, **properties: Any) -> None:
        """Publish any bytes to the commands' exchange."""
        with Connection(self.broker_url) as connection:
            connection.Producer().publish(
                body,
                exchange="allocation.commands",
                routing_key="allocation.commands",
                **{"content_type": "application/json", "content_encoding": "utf-8"} | properties,
            )


@pytest.fixture
def service(
    processes: Callable[..., Process], broker_url: str, database_url: str, state_dir: Path
) -> Iterator[Service]:
    """On RabbitMQ and PostgreSQL, with every queue declared."""
    with Connection(broker_url) as connection:
        topology.declare(connection)
    engine = database.engine(database_url)
    environment = {
        "ALLOCATION_BROKER_URL": broker_url,
        "ALLOCATION_DATABASE_URL": database_url,
        "ALLOCATION_STATE_DIR": str(state_dir),
    }
    yield Service(broker_url, engine, environment, processes)
    engine.dispose()


@pytest.fixture
def client(broker_url: str) -> BareClient:
    """Another service on the same broker."""
    return BareClient(broker_url)
