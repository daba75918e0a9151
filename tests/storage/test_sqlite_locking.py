"""SQLite: another process that writes between a reader's question and its change is no error."""

import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine, event

from allocation.adapters.sql import database
from allocation.adapters.sql.outbox import OutboxReader, only_reader
from tests.storage import test_due, test_resending
from tests.storage.conftest import Storage, sql_storage

WRITE = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], timeout=0)
connection.execute("INSERT INTO products (sku, version, sequence) VALUES ('CHAIR', 0, 0)")
connection.commit()
"""


@pytest.fixture
def storage(sqlite_url: str) -> Iterator[Storage]:
    engine = database.engine(sqlite_url)
    yield sql_storage(engine)
    engine.dispose()


def write_after_the_first_query(engine: Engine) -> list[bool]:
    """Have another process try to write then; the list says whether it could."""
    wrote: list[bool] = []

    @event.listens_for(engine, "after_cursor_execute")
    def write(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT") and not wrote:
            command = [sys.executable, "-c", WRITE, str(engine.url.database)]
            ended = subprocess.run(command, capture_output=True, text=True)
            assert ended.returncode == 0 or "database is locked" in ended.stderr, ended.stderr
            wrote.append(ended.returncode == 0)

    return wrote


@pytest.mark.parametrize(
    "change", [OutboxReader.accept_due, lambda reader: reader.send_again(test_resending.AFTER, 500)]
)
def test_the_outbox_reader_changes_what_it_has_read_whoever_writes_meanwhile(
    storage: Storage, change: Callable[[OutboxReader], int]
) -> None:
    engine = test_due.reserved(storage, "LAMP")
    test_due.make_due(engine)
    test_resending.accepted(storage, 7, seconds=900, sent=900)
    wrote = write_after_the_first_query(engine)

    with only_reader(engine) as reader:
        assert reader is not None
        assert change(reader) == 1

    assert wrote == [False]


def test_the_outbox_reader_holds_up_nobody_while_it_looks_for_what_to_send(
    storage: Storage,
) -> None:
    engine = test_due.reserved(storage, "LAMP")
    wrote = write_after_the_first_query(engine)

    with only_reader(engine) as reader:
        assert reader is not None
        assert reader.accept_due() == 0
        wrote.clear()
        assert len(reader.pending(10)) == 2

    assert wrote == [True]
