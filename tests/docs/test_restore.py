"""docs/back-up-and-restore.md: what it tells brings the system back."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from uuid import UUID

import pytest
from kombu import Connection
from sqlalchemy import Engine, make_url, text

from allocation.adapters import database, topology
from allocation.adapters.sql_unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, Command, CreateBatch
from allocation.handlers import accept, decide
from allocation.unit_of_work import Message
from tests.integration.conftest import Service, service
from tests.servers.databases import Databases
from tests.servers.postgres import find_binaries
from tests.servers.processes import Process
from tests.servers.vhosts import Vhosts
from tests.waiting import eventually
from workers.warehouse import pick_list

__all__ = ["service"]

PAGE = (Path(__file__).parents[2] / "docs" / "back-up-and-restore.md").read_text()


@pytest.fixture
def new_broker_url(rabbitmq: Vhosts) -> Iterator[str]:
    """A broker that has nothing of the old one."""
    url = rabbitmq.create_vhost()
    yield url
    rabbitmq.delete_vhost(url)


@pytest.fixture
def new_databases(postgres: Databases) -> Iterator[tuple[str, str]]:
    """Two empty databases."""
    urls = (postgres.create_database(), postgres.create_database())
    yield urls
    for url in urls:
        postgres.drop_database(url)


def test_the_system_comes_back_from_its_backups(
    service: Service,
    empty_database_url: str,
    new_databases: tuple[str, str],
    new_broker_url: str,
    tmp_path: Path,
) -> None:
    """What the warehouse's older backup lacks is replayed, and what was under way is decided."""
    dumps = tmp_path / "allocation.dump", tmp_path / "warehouse.dump"
    running = [service.relay(), warehouse(service, empty_database_url)]
    decide(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))
    decide(message(Allocate("o1", "LAMP", 3), 2), SqlUnitOfWork(service.engine))
    eventually(lambda: picks(empty_database_url) == ["o1"], what="the first pick")
    dump(empty_database_url, dumps[1])
    decide(message(Allocate("o2", "LAMP", 3), 3), SqlUnitOfWork(service.engine))
    accept(message(Allocate("o3", "LAMP", 3), 4), SqlUnitOfWork(service.engine))
    eventually(lambda: unsent(service.engine) == 0, what="everything to be sent")
    dump(str(service.environment["ALLOCATION_DATABASE_URL"]), dumps[0])
    for process in running:
        process.kill()

    for file, url in zip(dumps, new_databases, strict=True):
        run("pg_restore", "--no-owner", "--exit-on-error", "--dbname", plain(url), str(file))
    restored = Service(
        new_broker_url,
        database.engine(new_databases[0]),
        service.environment
        | {"ALLOCATION_BROKER_URL": new_broker_url, "ALLOCATION_DATABASE_URL": new_databases[0]},
        service.start_process,
    )
    with Connection(new_broker_url) as connection:
        topology.declare(connection)
    assert picks(new_databases[1]) == ["o1"]
    with restored.engine.begin() as connection_to_it:
        connection_to_it.execute(text(PAGE.partition("```sql\n")[2].partition("```")[0]))
    restored.relay()
    warehouse(restored, new_databases[1])
    worker = [sys.executable, "-m", "celery", "-A", "allocation", "worker", "-c1"]
    restored.start_process(worker, name="worker", env=restored.environment)
    restored.run("replay", "--queue", "warehouse.events")

    eventually(lambda: picks(new_databases[1]) == ["o1", "o2", "o3"], within=40, what="every pick")
    restored.run("check")
    restored.engine.dispose()


def message(command: Command, number: int) -> Message:
    return Message(UUID(int=number), command, correlation_id=UUID(int=number))


def warehouse(service: Service, url: str) -> Process:
    """The warehouse on its database, consuming."""
    command = [sys.executable, "-m", "workers.warehouse"]
    environment = service.environment | {"WAREHOUSE_DATABASE_URL": url}
    process = service.start_process(command, name="warehouse", env=environment)
    process.wait_for_log("ready: consuming")
    return process


def picks(url: str) -> list[str]:
    """The orders that have an open pick."""
    engine = database.engine(url)
    try:
        return sorted(
            str(pick["orderid"]) for pick in pick_list.listed(engine) if pick["status"] == "open"
        )
    finally:
        engine.dispose()


def unsent(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM outbox WHERE sent_at IS NULL")) or 0


def dump(url: str, file: Path) -> None:
    run("pg_dump", "--format=custom", "--dbname", plain(url), "--file", str(file))


def plain(url: str) -> str:
    """As PostgreSQL's own programs take it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def run(program: str, *arguments: str) -> None:
    """One of PostgreSQL's own programs, those of the server."""
    done = subprocess.run(
        [find_binaries() / program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
