"""Each subscriber's schema, on both databases."""

from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, MetaData, insert, inspect, select, text

from workers import database
from workers.notification import tables as notification
from workers.notification.running import MIGRATIONS as NOTIFICATION
from workers.warehouse import tables as warehouse
from workers.warehouse.running import MIGRATIONS as WAREHOUSE

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


def test_the_lines_on_the_move_outlive_the_upgrade_to_parts_and_the_way_back(
    worker_engine: Engine,
) -> None:
    """Processes of the previous release write rows without the new columns meanwhile."""
    database.upgrade(worker_engine, NOTIFICATION, notification.VERSION_TABLE, "0004")
    old = "INSERT INTO moving (orderid, sku, batchref, sequence) VALUES (:o, 'LAMP', 'b1', :n)"
    with worker_engine.begin() as connection:
        connection.execute(text(old), [{"o": "o1", "n": 1}, {"o": "o2", "n": 2}])

    database.upgrade(worker_engine, NOTIFICATION, notification.VERSION_TABLE)
    with worker_engine.begin() as connection:
        connection.execute(text(old), [{"o": "o3", "n": 3}])
        connection.execute(
            insert(notification.moving).values(orderid="o4", sku="LAMP", part=1, told=True),
            [
                {"sequence": 4, "batchref": "b1", "qty": 2},
                {"sequence": 5, "batchref": "b2", "qty": 2},
                {"sequence": 6, "batchref": None, "qty": 3},
            ],
        )
        rows = connection.execute(select(notification.moving).order_by("sequence")).all()
    database.downgrade(worker_engine, NOTIFICATION, notification.VERSION_TABLE, "0004")

    assert [tuple(row) for row in rows] == [
        ("o1", "LAMP", 1, "b1", 0, None, False),
        ("o2", "LAMP", 2, "b1", 0, None, False),
        ("o3", "LAMP", 3, "b1", 0, None, False),
        ("o4", "LAMP", 4, "b1", 1, 2, True),
        ("o4", "LAMP", 5, "b2", 1, 2, True),
        ("o4", "LAMP", 6, None, 1, 3, True),
    ]
    with worker_engine.connect() as connection:
        query = text("SELECT orderid, batchref FROM moving ORDER BY sequence")
        left = [tuple(row) for row in connection.execute(query)]
    assert left == [("o1", "b1"), ("o2", "b1"), ("o3", "b1"), ("o4", "b2")]
