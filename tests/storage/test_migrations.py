"""The schema's steps, on both databases."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import inspect, select, text

from allocation.adapters.sql import audit, database, migrations, tables
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.books import OrderLine
from allocation.domain.commands import Deallocate
from allocation.domain.outcomes import Succeeded


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


def run(url: str, *statements: str) -> None:
    engine = database.engine(url)
    with engine.begin() as connection:
        for statement in statements:
            connection.execute(text(statement))
    engine.dispose()


def test_a_worker_of_the_release_before_days_and_priorities_goes_on_writing(url: str) -> None:
    """It knows none of the new columns, and a new worker reads what it wrote."""
    migrations.upgrade(url)

    run(
        url,
        "INSERT INTO products (sku, version, sequence, strategy)"
        " VALUES ('LAMP', 2, 2, 'earliest_first')",
        "INSERT INTO batches (batchref, sku, purchased, allocated, eta, best_before)"
        " VALUES ('b1', 'LAMP', 5, 0, NULL, NULL)",
        "INSERT INTO allocations (orderid, sku, part, last_part, qty, smallest_part, age,"
        " batchref, promised_at, eta, told, customer, expires_at, extended, dispatched)"
        " VALUES ('o1', 'LAMP', 0, 0, 3, NULL, 1, 'b1', 2, NULL, false, NULL, NULL, false, false)",
        "UPDATE batches SET allocated = 3 WHERE batchref = 'b1'",
        "UPDATE products SET version = 3, sequence = 3 WHERE sku = 'LAMP'",
    )

    engine = database.engine(url)
    with SqlUnitOfWork(engine) as uow:
        uow.products.load([Deallocate("o1", "LAMP")])
        lamp = uow.products.get("LAMP")
        assert lamp is not None
        told = (lamp.waiting, lamp.improve, lamp.allocate(OrderLine("o1", "LAMP", 3)))
    engine.dispose()
    assert told == ("fill", True, Succeeded(status="allocated", batchref="b1", eta=None))


def test_batches_that_were_there_are_looked_at_when_their_day_has_passed(url: str) -> None:
    """Of an empty batch whose day has passed nobody hears; of others once workers are upgraded."""
    migrations.upgrade(url, "0011")
    run(
        url,
        "INSERT INTO products (sku, version, sequence) VALUES ('LAMP', 0, 0)",
        "INSERT INTO batches (batchref, sku, purchased, allocated, eta, best_before) VALUES"
        " ('milk', 'LAMP', 5, 0, NULL, '2999-01-01'),"
        " ('ship', 'LAMP', 5, 0, '2999-01-02', NULL),"
        " ('lost', 'LAMP', 5, 0, '2020-01-01', '2999-01-03'),"
        " ('sold', 'LAMP', 0, 0, '2020-01-01', '2020-01-02'),"
        " ('sold, may come back', 'LAMP', 0, 0, NULL, '9999-12-31'),"
        " ('shelf', 'LAMP', 5, 0, NULL, NULL)",
    )

    migrations.upgrade(url)

    engine = database.engine(url)
    with engine.connect() as connection:
        soon = database.clock(connection) + timedelta(hours=2)
        scheduled = [
            (
                *(row.name, row.body["batchref"]),
                "in an hour" if row.due_at < soon else row.due_at.date().isoformat(),
            )
            for row in connection.execute(select(tables.outbox))
        ]
    assert sorted(scheduled) == [
        ("allocation.expire_batch", "lost", "2999-01-04"),
        ("allocation.expire_batch", "milk", "2999-01-02"),
        ("allocation.expire_batch", "sold, may come back", "9999-12-30"),
        ("allocation.mark_overdue", "lost", "in an hour"),
        ("allocation.mark_overdue", "ship", "2999-01-03"),
    ]
    assert [proof.promise for proof in audit.run(engine) if not proof.holds] == []
    engine.dispose()
