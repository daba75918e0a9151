"""All times come from the database's clock; the clocks of other machines may differ."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import Engine, func, make_url, select, text, update

from allocation.adapters.sql import database, tables
from allocation.adapters.sql.outbox import only_reader
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, CreateBatch, Reserve
from allocation.service_layer.execution import accept, execute, fail
from allocation.views import progress
from tests.storage.conftest import message


@pytest.fixture
def tomorrow(database_url: str) -> Iterator[Engine]:
    """A PostgreSQL database of which the clock is a day ahead of this machine's."""
    made = database.engine(database_url)
    with made.begin() as connection:
        connection.execute(text("CREATE SCHEMA ahead"))
        connection.execute(
            text(
                "CREATE FUNCTION ahead.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
                " AS $$ SELECT pg_catalog.clock_timestamp() + interval '1 day' $$"
            )
        )
        name = make_url(database_url).database
        connection.execute(
            text(f'ALTER DATABASE "{name}" SET search_path = ahead, pg_catalog, public')
        )
    made.dispose()
    yield made
    made.dispose()


def test_commands_and_events_have_the_times_of_the_database(tomorrow: Engine) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(tomorrow))
    accept(message(Allocate("o1", "LAMP", 1), 2), SqlUnitOfWork(tomorrow))
    fail(message(Allocate("o2", "LAMP", 1), 3), "broken", SqlUnitOfWork(tomorrow))

    with tomorrow.connect() as connection:
        commands = connection.execute(select(tables.commands)).all()
        rows = connection.execute(select(tables.outbox)).all()

    times = [row.accepted_at for row in commands]
    times += [row.decided_at for row in commands if row.decided_at]
    times += [row.created_at for row in rows]
    times += [datetime.fromisoformat(row.body["time"]) for row in rows if row.kind == "event"]
    assert len(times) == 3 + 2 + 2 + 1
    here = datetime.now(UTC)
    ahead = [time - here for time in times]
    assert [by for by in ahead if not timedelta(hours=23) < by < timedelta(days=1)] == []


def test_what_is_due_is_accepted_at_the_time_of_the_database(tomorrow: Engine) -> None:
    execute(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(tomorrow))
    execute(message(Reserve("o1", "LAMP", 1, 1), 2), SqlUnitOfWork(tomorrow))
    with tomorrow.begin() as connection:
        due = update(tables.outbox).where(tables.is_scheduled)
        connection.execute(due.values(due_at=tables.outbox.c.created_at))

    with only_reader(tomorrow) as reader:
        assert reader is not None
        assert reader.accept_due() == 1

    with tomorrow.connect() as connection:
        accepted = connection.scalar(select(func.max(tables.commands.c.accepted_at)))
        backlog = progress.backlog(connection, overdue_after=3600)
    assert accepted is not None
    assert timedelta(hours=23) < accepted - datetime.now(UTC) < timedelta(days=1)
    assert (backlog.follow_ups, backlog.overdue) == (1, 0)
    assert backlog.oldest_unsent_seconds < 3600
