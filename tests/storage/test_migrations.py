"""The schema's steps, on both databases."""

from pathlib import Path

import pytest
from sqlalchemy import inspect

from allocation.adapters.sql import database, migrations


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty database of each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    return str(request.getfixturevalue("empty_database_url"))


def test_upgrading_gives_the_schema_that_the_code_was_written_for(url: str) -> None:
    migrations.upgrade(url)

    engine = database.engine(url)
    with engine.connect() as connection:
        assert migrations.drift(connection) == []
        assert not migrations.is_behind(connection)
    engine.dispose()


def test_upgrading_twice_is_harmless(url: str) -> None:
    migrations.upgrade(url)

    migrations.upgrade(url)

    engine = database.engine(url)
    with engine.connect() as connection:
        assert not migrations.is_behind(connection)
    engine.dispose()


def test_downgrading_leaves_nothing_behind(url: str) -> None:
    """And upgrading again works."""
    migrations.upgrade(url)

    migrations.downgrade(url)

    engine = database.engine(url)
    assert set(inspect(engine).get_table_names()) <= {"alembic_version"}
    engine.dispose()
    migrations.upgrade(url)


def test_an_empty_database_is_behind(url: str) -> None:
    engine = database.engine(url)

    with engine.connect() as connection:
        assert migrations.is_behind(connection)
    engine.dispose()
