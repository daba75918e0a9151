"""The unit of work on each storage that there is: the port's tests run on all of them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from sqlalchemy import Connection, Engine, select

from allocation.adapters.memory import MemoryStore, MemoryUnitOfWork
from allocation.adapters.sql import database, tables
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract import codec
from allocation.service_layer.unit_of_work import Message, UnitOfWork

Sent = tuple[str, dict[str, Any]]


@dataclass
class Storage:
    """Makes units of work on one store, and shows its outbox as (name, body or event data)."""

    unit_of_work: Callable[[], UnitOfWork]
    outbox: Callable[[], list[Sent]]
    engine: Engine | None = None


def memory_storage(
    now: Callable[[], datetime] = lambda: datetime.now(UTC), store: MemoryStore | None = None
) -> Storage:
    store = store or MemoryStore()

    def outbox() -> list[Sent]:
        return [
            (codec.command_name(sent.command), codec.command_body(sent.command))
            if isinstance(sent, Message)
            else (sent["type"], sent["data"] | {"sequence": sent["sequence"]})
            for sent in store.outbox
        ]

    return Storage(lambda: MemoryUnitOfWork(store, now), outbox)


def sql_storage(
    engine: Engine, clock: Callable[[Connection], datetime] = database.clock
) -> Storage:
    def outbox() -> list[Sent]:
        with engine.connect() as connection:
            rows = connection.execute(
                select(tables.outbox).order_by(tables.outbox.c.position)
            ).all()
        return [
            (row.name, row.body)
            if row.kind == "command"
            else (row.name, row.body["data"] | {"sequence": row.body["sequence"]})
            for row in rows
        ]

    return Storage(lambda: SqlUnitOfWork(engine, clock=clock), outbox, engine)


@pytest.fixture
def sqlite_url(migrated_file: Path, tmp_path: Path) -> str:
    """A fresh migrated SQLite database."""
    (tmp_path / "allocation.db").write_bytes(migrated_file.read_bytes())
    return f"sqlite:///{tmp_path}/allocation.db"


@pytest.fixture(params=["memory", "sqlite", "postgresql"])
def storage(request: pytest.FixtureRequest) -> Iterator[Storage]:
    """Each storage in turn."""
    if request.param == "memory":
        yield memory_storage()
        return
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "database_url")
    engine = database.engine(url)
    yield sql_storage(engine)
    engine.dispose()


@pytest.fixture(params=["sqlite", "postgresql"])
def sql(request: pytest.FixtureRequest) -> Iterator[Storage]:
    """Each SQL database in turn."""
    url = request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "database_url")
    engine = database.engine(url)
    yield sql_storage(engine)
    engine.dispose()


def message(command: Any, number: int) -> Message:
    """A command under an id that says which one it is."""
    return Message(UUID(int=number), command, correlation_id=UUID(int=number))
