"""docs/back-up-and-restore.md: its steps restore the system."""

import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import UUID

import pytest
from kombu import Connection
from sqlalchemy import Engine, make_url, text

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import database
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, Command, CreateBatch
from allocation.service_layer.execution import accept, execute
from allocation.service_layer.unit_of_work import Message
from tests.integration.conftest import Service, service
from tests.servers.databases import Databases
from tests.servers.postgres import find_binaries
from tests.servers.processes import Process
from tests.servers.vhosts import Vhosts
from tests.waiting import eventually
from workers.warehouse import pick_list

__all__ = ["service"]

SUBSCRIBERS = ("WAREHOUSE", "NOTIFICATION")
PAGE = (Path(__file__).parents[2] / "docs" / "back-up-and-restore.md").read_text()


@pytest.fixture
def new_broker_url(rabbitmq: Vhosts) -> Iterator[str]:
    """A broker that has nothing of the old one."""
    url = rabbitmq.create_vhost()
    yield url
    rabbitmq.delete_vhost(url)


@pytest.fixture
def new_database(postgres: Databases) -> Iterator[Callable[[], str]]:
    """Makes an empty database."""
    made: list[str] = []

    def make() -> str:
        made.append(postgres.create_database())
        return made[-1]

    yield make
    for url in made:
        postgres.drop_database(url)


def test_the_system_comes_back_from_its_backups(
    service: Service,
    new_database: Callable[[], str],
    new_broker_url: str,
    tmp_path: Path,
) -> None:
    """What the subscribers' older backups lack is replayed, what was under way is decided.

    A mail that the backup knows is not sent again; one that was sent later is.
    """
    old = prepared(service, new_database)
    running = [service.relay(), *subscribers(old)]
    execute(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))
    execute(message(Allocate("o1", "LAMP", 3), 2), SqlUnitOfWork(service.engine))
    execute(message(Allocate("large-1", "LAMP", 99), 3), SqlUnitOfWork(service.engine))
    eventually(lambda: (picks(old), mails(old)) == (["o1"], ["large-1"]), what="pick and mail")
    for name in SUBSCRIBERS:
        dump(old, name, tmp_path)
    execute(message(Allocate("o2", "LAMP", 3), 4), SqlUnitOfWork(service.engine))
    execute(message(Allocate("large-2", "LAMP", 99), 5), SqlUnitOfWork(service.engine))
    accept(message(Allocate("o3", "LAMP", 3), 6), SqlUnitOfWork(service.engine))
    eventually(lambda: mails(old) == ["large-1", "large-2"], what="the second mail")
    eventually(lambda: unsent(service.engine) == 0, what="everything to be sent")
    dump(old, "ALLOCATION", tmp_path)
    for process in running:
        process.kill()
    for mail in folder_of_mails(service).iterdir():
        mail.unlink()

    environment = service.environment | {"ALLOCATION_BROKER_URL": new_broker_url}
    for name in ("ALLOCATION", *SUBSCRIBERS):
        environment[f"{name}_DATABASE_URL"] = restore(new_database(), tmp_path / name)
    engine = database.engine(environment["ALLOCATION_DATABASE_URL"])
    new = Service(new_broker_url, engine, environment, service.start_process)
    with Connection(new_broker_url) as connection:
        topology.declare(connection)
    assert picks(new) == ["o1"]
    with engine.begin() as books:
        books.execute(text(PAGE.partition("```sql\n")[2].partition("```")[0]))
    new.relay()
    subscribers(new)
    worker = [sys.executable, "-m", "celery", "-A", "allocation", "worker", "-c1"]
    new.start_process(worker, name="worker", env=environment)
    for name in SUBSCRIBERS:
        new.run("replay", "--queue", f"{name.lower()}.events")

    eventually(lambda: picks(new) == ["o1", "o2", "o3"], within=40, what="every pick")
    eventually(lambda: mails(new) == ["large-2"], what="the mail that the backup lacks")
    new.run("check")
    engine.dispose()


def message(command: Command, number: int) -> Message:
    return Message(UUID(int=number), command, correlation_id=UUID(int=number))


def prepared(service: Service, new_database: Callable[[], str]) -> Service:
    """With a database for each subscriber."""
    urls = {f"{name}_DATABASE_URL": new_database() for name in SUBSCRIBERS}
    environment = service.environment | urls
    return Service(service.broker_url, service.engine, environment, service.start_process)


def subscribers(service: Service) -> list[Process]:
    """Both, consuming."""
    started = []
    for name in map(str.lower, SUBSCRIBERS):
        command = [sys.executable, "-m", f"workers.{name}"]
        started.append(service.start_process(command, name=name, env=service.environment))
    for process in started:
        process.wait_for_log("ready: consuming")
    return started


def picks(service: Service) -> list[str]:
    """The orders that have an open pick."""
    engine = database.engine(service.environment["WAREHOUSE_DATABASE_URL"])
    try:
        return sorted(
            str(pick["orderid"]) for pick in pick_list.listed(engine) if pick["status"] == "open"
        )
    finally:
        engine.dispose()


def mails(service: Service) -> list[str]:
    """The large orders that mails were sent about."""
    texts = [mail.read_text() for mail in folder_of_mails(service).glob("*.eml")]
    return sorted({order for text in texts for order in re.findall(r"large-\d", text)})


def folder_of_mails(service: Service) -> Path:
    return Path(service.environment["ALLOCATION_STATE_DIR"]) / "mails"


def unsent(engine: Engine) -> int:
    with engine.connect() as connection:
        return connection.scalar(text("SELECT count(*) FROM outbox WHERE sent_at IS NULL")) or 0


def dump(service: Service, name: str, folder: Path) -> None:
    url = plain(service.environment[f"{name}_DATABASE_URL"])
    run("pg_dump", "--format=custom", "--dbname", url, "--file", str(folder / name))


def restore(url: str, file: Path) -> str:
    run("pg_restore", "--no-owner", "--exit-on-error", "--dbname", plain(url), str(file))
    return url


def plain(url: str) -> str:
    """As PostgreSQL's own programs take it."""
    return make_url(url).set(drivername="postgresql").render_as_string(hide_password=False)


def run(program: str, *arguments: str) -> None:
    """One of PostgreSQL's own programs, those of the server."""
    done = subprocess.run(
        [find_binaries() / program, *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
