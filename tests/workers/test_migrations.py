"""Each subscriber's schema, on both databases."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, MetaData, inspect

from workers import database
from workers.notification import tables as notification
from workers.notification.__main__ import MIGRATIONS as NOTIFICATION
from workers.warehouse import tables as warehouse
from workers.warehouse.__main__ import MIGRATIONS as WAREHOUSE

BOTH = pytest.mark.parametrize(
    ("metadata", "migrations", "version_table"),
    [
        (warehouse.metadata, WAREHOUSE, warehouse.VERSION_TABLE),
        (notification.metadata, NOTIFICATION, notification.VERSION_TABLE),
    ],
    ids=["warehouse", "notification"],
)


@BOTH
def test_upgrading_gives_the_tables_of_the_code_and_may_be_repeated(
    worker_engine: Engine, metadata: MetaData, migrations: Path, version_table: str
) -> None:
    """No drift."""
    database.upgrade(worker_engine, migrations, version_table)
    database.upgrade(worker_engine, migrations, version_table)

    with worker_engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": version_table, "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []


@BOTH
def test_downgrading_leaves_nothing_behind(
    worker_engine: Engine, metadata: MetaData, migrations: Path, version_table: str
) -> None:
    """But the empty note of the version."""
    database.upgrade(worker_engine, migrations, version_table)

    database.downgrade(worker_engine, migrations, version_table)

    assert inspect(worker_engine).get_table_names() == [version_table]
