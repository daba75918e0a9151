"""What a database's errors mean to a caller."""

import pytest
from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from allocation.adapters import database
from allocation.unit_of_work import ConcurrentUpdate


def test_a_snapshot_that_is_out_of_date_is_a_concurrent_update(sqlite_url: str) -> None:
    """SQLite says busy in several ways; whoever hears any of them may try again."""
    engine = database.engine(sqlite_url)
    insert = text("INSERT INTO products VALUES (:sku, 1, 0)")

    with engine.connect() as early, engine.connect() as late:
        early.execute(text("SELECT * FROM products"))
        late.execute(insert, {"sku": "LAMP"})
        late.commit()
        with pytest.raises(OperationalError) as raised:
            early.execute(insert, {"sku": "CHAIR"})
    engine.dispose()

    assert getattr(raised.value.orig, "sqlite_errorname", None) == "SQLITE_BUSY_SNAPSHOT"
    assert isinstance(database.translated(raised.value), ConcurrentUpdate)
