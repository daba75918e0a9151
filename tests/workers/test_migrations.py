"""Each subscriber's schema, on both databases."""

import pytest
from sqlalchemy import Engine, insert, inspect, select, text

from allocation.messaging.migrations import Migrations
from workers.notification import tables as notification
from workers.notification.running import MIGRATIONS as NOTIFICATION
from workers.warehouse.running import MIGRATIONS as WAREHOUSE

BOTH = pytest.mark.parametrize(
    "migrations", [WAREHOUSE, NOTIFICATION], ids=["warehouse", "notification"]
)


@BOTH
def test_upgrading_gives_the_tables_of_the_code_and_may_be_repeated(
    worker_engine: Engine, migrations: Migrations
) -> None:
    migrations.upgrade(worker_engine)
    migrations.upgrade(worker_engine)

    with worker_engine.connect() as connection:
        assert migrations.drift(connection) == []


@BOTH
def test_downgrading_leaves_nothing_behind(worker_engine: Engine, migrations: Migrations) -> None:
    """But the empty note of the version."""
    migrations.upgrade(worker_engine)

    migrations.downgrade(worker_engine)

    assert inspect(worker_engine).get_table_names() == [migrations.version_table]


def test_the_lines_on_the_move_outlive_the_upgrade_to_parts_and_the_way_back(
    worker_engine: Engine,
) -> None:
    """Processes of the previous release write rows without the new columns meanwhile."""
    NOTIFICATION.upgrade(worker_engine, "0004")
    old = "INSERT INTO moving (orderid, sku, batchref, sequence) VALUES (:o, 'LAMP', 'b1', :n)"
    with worker_engine.begin() as connection:
        connection.execute(text(old), [{"o": "o1", "n": 1}, {"o": "o2", "n": 2}])

    NOTIFICATION.upgrade(worker_engine)
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
    NOTIFICATION.downgrade(worker_engine, "0004")

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
