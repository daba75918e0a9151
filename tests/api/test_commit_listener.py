"""One thread has readers look after commits, and only as long as they are wanted."""

from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Connection, Engine, text

from allocation.adapters.sql import database
from allocation.entrypoints.api.http import commit_listener
from allocation.entrypoints.api.http.commit_listener import CommitListener, Pause
from tests.waiting import eventually

NEVER = 1000.0  # seconds


class Looks:
    """A reader that counts its looks, and looks again only after a commit."""

    def __init__(self, channel: str, most: float = NEVER) -> None:
        self.channel = channel
        self.is_wanted = True
        self.count = 0
        self._most = most

    def look(self, connection: Connection) -> Pause:
        with connection.begin():
            connection.execute(text("SELECT 1"))
        self.count += 1
        return Pause(least=0.0, most=self._most)

    def wait_for(self, count: int) -> None:
        eventually(lambda: self.count >= count, what=f"look {count}")


@pytest.fixture
def engine(database_url: str) -> Iterator[Engine]:
    made = database.engine(database_url)
    yield made
    made.dispose()


@pytest.fixture
def start() -> Iterator[Callable[..., CommitListener]]:
    """Starts a listener with these readers."""
    made: list[CommitListener] = []

    def start(engine: Engine, *readers: Looks) -> CommitListener:
        listener = CommitListener(engine)
        made.append(listener)
        for reader in readers:
            listener.add(reader)
        listener.listen()
        return listener

    yield start
    for listener in made:
        listener.stop()


def run(engine: Engine, statement: str) -> int:
    with engine.begin() as connection:
        return connection.execute(text(statement)).rowcount


def others(engine: Engine, what: str = "count(*)") -> int:
    """Sessions at the database beside the one that asks."""
    asked = (
        f"SELECT {what} FROM pg_stat_activity"
        " WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    with engine.connect() as connection:
        return connection.scalar(text(asked)) or 0


def test_a_notification_has_the_reader_of_its_channel_look(
    engine: Engine, start: Callable[..., CommitListener]
) -> None:
    red, blue = Looks("red"), Looks("blue")
    start(engine, red, blue)
    blue.wait_for(1)

    run(engine, "NOTIFY blue")
    blue.wait_for(2)
    run(engine, "NOTIFY red")
    red.wait_for(2)

    assert (red.count, blue.count) == (2, 2)


def test_all_readers_look_again_after_the_connection_was_lost(
    engine: Engine, start: Callable[..., CommitListener]
) -> None:
    reader = Looks("red")
    start(engine, reader)
    reader.wait_for(1)

    ended = others(engine, "count(pg_terminate_backend(pid))")
    reader.wait_for(2)
    run(engine, "NOTIFY red")
    reader.wait_for(3)

    assert ended == 1


def test_on_sqlite_a_reader_looks_again_and_again(
    sqlite_url: str, start: Callable[..., CommitListener]
) -> None:
    reader = Looks("red", most=0.005)
    engine = database.engine(sqlite_url)

    listener = start(engine, reader)
    reader.wait_for(3)

    listener.stop()
    engine.dispose()


def test_while_nothing_is_wanted_the_connection_is_given_back(
    engine: Engine,
    start: Callable[..., CommitListener],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(commit_listener, "KEEP", 0.0)
    reader = Looks("red")
    listener = start(engine, reader)
    reader.wait_for(1)
    listening = others(engine)

    reader.is_wanted = False
    eventually(lambda: others(engine) == 0, what="no session")
    seen = reader.count
    reader.is_wanted = True
    listener.listen()
    reader.wait_for(seen + 1)

    assert listening == 1
