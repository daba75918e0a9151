"""PostgreSQL updates the rows that every allocation changes in their place (HOT).

Otherwise each update would add an entry to every index of the table, and the dead ones would slow
down the next updates until a vacuum.
"""

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from allocation.adapters.sql import database
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, CreateBatch
from allocation.service_layer.execution import execute
from tests.storage.conftest import message


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = database.engine(database_url)
    yield made
    made.dispose()


@pytest.mark.parametrize(
    ("table", "change"),
    [
        ("products", "version = version + 1, sequence = sequence + 1"),
        ("batches", "allocated = allocated + 1"),
    ],
)
def test_what_an_allocation_changes_is_in_no_index(engine: Engine, table: str, change: str) -> None:
    execute(message(CreateBatch("batch-1", "LAMP", 10), 1), SqlUnitOfWork(engine))
    in_place = text(f"SELECT pg_stat_get_xact_tuples_hot_updated('{table}'::regclass)")

    with engine.begin() as connection:
        before = connection.scalar(in_place)
        connection.execute(text(f"UPDATE {table} SET {change}"))
        after = connection.scalar(in_place)

    assert after - before == 1


def test_a_batch_without_free_stock_is_not_open(engine: Engine) -> None:
    execute(message(CreateBatch("batch-1", "LAMP", 3), 1), SqlUnitOfWork(engine))
    exhausted = text("SELECT exhausted FROM batches")

    with engine.connect() as connection:
        before = connection.scalar(exhausted)
    execute(message(Allocate("order-1", "LAMP", 3), 2), SqlUnitOfWork(engine))
    with engine.connect() as connection:
        after = connection.scalar(exhausted)

    assert (before, after) == (False, True)
