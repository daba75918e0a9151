"""SQLite uses a partial index only for a condition that is written as the index has it."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import ColumnElement, Engine, Table, text
from sqlalchemy.dialects import sqlite

from allocation.adapters.sql import database
from allocation.adapters.sql.tables import (
    allocations,
    batches,
    improvable,
    is_open,
    promised,
    untold,
)


@pytest.fixture
def engine(tmp_path: Path, migrated_file: Path) -> Iterator[Engine]:
    file = tmp_path / "allocation.db"
    file.write_bytes(migrated_file.read_bytes())
    made = database.engine(f"sqlite:///{file}")
    yield made
    made.dispose()


@pytest.mark.parametrize(
    ("table", "condition", "index"),
    [
        (allocations, improvable, "ix_allocations_improvable"),
        (allocations, promised, "ix_allocations_promised"),
        (allocations, untold, "ix_allocations_untold"),
        (batches, is_open, "ix_batches_open"),
    ],
)
def test_a_partial_index_answers_the_question_that_it_was_made_for(
    engine: Engine, table: Table, condition: ColumnElement[bool], index: str
) -> None:
    asked = condition.compile(dialect=sqlite.dialect())
    # SQLite refuses a statement for which the index that it names is of no use.
    statement = text(f"SELECT * FROM {table.name} INDEXED BY {index} WHERE {asked}")

    with engine.connect() as connection:
        assert connection.execute(statement).all() == []
