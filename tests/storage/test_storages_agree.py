"""The same commands give the same events and outcomes on every storage, however it loads them."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete

from allocation.adapters import books, database, migrations, tables
from allocation.domain import model
from allocation.domain.commands import (
    Allocate,
    AllocateWaiting,
    ChangeBatchQuantity,
    Command,
    CreateBatch,
    Deallocate,
)
from allocation.handlers import decide
from tests.storage.conftest import Storage, memory_storage, message, sql_storage

orders = st.sampled_from([f"order-{number}" for number in range(8)])
refs = st.sampled_from([f"batch-{number}" for number in range(4)])
skus = st.sampled_from(["LAMP", "CHAIR"])
quantities = st.integers(min_value=1, max_value=9)
one_command: st.SearchStrategy[Command] = st.one_of(
    st.builds(CreateBatch, refs, skus, quantities, st.none() | st.dates()),
    st.builds(Allocate, orders, skus, quantities),
    st.builds(Deallocate, orders, skus),
    st.builds(ChangeBatchQuantity, refs, st.integers(min_value=0, max_value=9)),
    st.builds(AllocateWaiting, skus),
)


def play(storage: Storage, commands: list[Command]) -> list[Any]:
    """The outcomes of all, and what the outbox then holds."""
    outcomes = [
        decide(message(command, number), storage.unit_of_work())
        for number, command in enumerate(commands, start=1)
    ]
    return [*outcomes, *storage.outbox()]


def empty(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(delete(table))


@pytest.fixture(autouse=True, scope="module")
def small_bounds() -> Any:
    """Bounds so small that chunks and follow-ups are played as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(model, "SERVED_AT_ONCE", 2)
        patch.setattr(books, "CHUNK", 2)
        yield


def agree(engine: Engine, commands: list[Command]) -> None:
    empty(engine)

    on_sql = play(sql_storage(engine), commands)

    assert on_sql == play(memory_storage(), commands)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(commands=st.lists(one_command, max_size=30))
def test_sqlite_agrees_with_memory(tmp_path: Path, commands: list[Command]) -> None:
    """Only a part of the books is loaded, and nobody notices."""
    url = f"sqlite:///{tmp_path}/twin.db"
    migrations.upgrade(url)
    engine = database.engine(url)

    agree(engine, commands)

    engine.dispose()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(commands=st.lists(one_command, max_size=30))
def test_postgresql_agrees_with_memory(database_url: str, commands: list[Command]) -> None:
    """Only a part of the books is loaded, and nobody notices."""
    engine = database.engine(database_url)

    agree(engine, commands)

    engine.dispose()
