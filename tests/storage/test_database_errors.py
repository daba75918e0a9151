"""What a database's errors mean to a caller."""

from typing import Any

import pytest
from sqlalchemy import event, text
from sqlalchemy.exc import OperationalError

from allocation.adapters.sql import database
from allocation.service_layer.unit_of_work import ConcurrentUpdate


def test_a_snapshot_that_is_out_of_date_is_a_concurrent_update(sqlite_url: str) -> None:
    """SQLite says busy in several ways; whoever hears any of them may try again."""
    engine = database.engine(sqlite_url)
    insert = text("INSERT INTO products (sku, version, sequence) VALUES (:sku, 1, 0)")

    with engine.connect() as early, engine.connect() as late:
        early.execute(text("SELECT * FROM products"))
        late.execute(insert, {"sku": "LAMP"})
        late.commit()
        with pytest.raises(OperationalError) as raised:
            early.execute(insert, {"sku": "CHAIR"})
    engine.dispose()

    assert getattr(raised.value.orig, "sqlite_errorname", None) == "SQLITE_BUSY_SNAPSHOT"
    assert isinstance(database.translated(raised.value), ConcurrentUpdate)


def test_a_connection_that_the_server_has_ended_is_replaced(database_url: str) -> None:
    """Whoever comes next does not notice, however soon that is."""
    engine, other = database.engine(database_url), database.engine(database_url)
    opened: list[Any] = []
    event.listen(engine, "connect", lambda *_: opened.append(None))
    with engine.connect() as connection:
        session = connection.scalar(text("SELECT pg_backend_pid()"))
    with other.connect() as connection:
        connection.execute(text("SELECT pg_terminate_backend(:pid, 5000)"), {"pid": session})

    with engine.connect() as connection:
        assert connection.scalar(text("SELECT 1")) == 1

    assert len(opened) == 2
    engine.dispose()
    other.dispose()
