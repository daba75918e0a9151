"""Rows past their retention are deleted in steps, under load, and the audit still holds."""

import json
import multiprocessing
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from sqlalchemy import Engine, event, func, select, text, update

from allocation.adapters.sql import audit, database, retention, tables
from allocation.adapters.sql.retention import Limits, Number
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import (
    Allocate,
    AllocateWaiting,
    CancelOrder,
    Command,
    CreateBatch,
    Deallocate,
)
from allocation.domain.outcomes import Refused, Succeeded
from allocation.service_layer.execution import accept, execute, fail
from allocation.service_layer.unit_of_work import ConcurrentUpdate, Message, UnitOfWork
from tests.servers.processes import Process
from tests.storage.conftest import Storage, message
from tests.storage.test_race import BATCHES, serve_all, storm

NOW = datetime.now(UTC)
MONTH_AGO = NOW - timedelta(days=30)
LIMITS = Limits(events=MONTH_AGO, commands=MONTH_AGO)
EVERYTHING = Limits(events=NOW + timedelta(days=3), commands=NOW + timedelta(days=3))
YEARS = 10 * 365 * 86_400.0
"""Seconds: these tests make commands older than they are, and leave some of them pending."""


def run(storage: Storage, *commands: Command, first: int = 1) -> None:
    for number, command in enumerate(commands, start=first):
        execute(message(command, number), storage.unit_of_work())


def relay(engine: Engine) -> None:
    """Count everything as sent."""
    pending = update(tables.outbox).where(tables.outbox.c.sent_at.is_(None))
    with engine.begin() as connection:
        connection.execute(pending.values(sent_at=tables.outbox.c.created_at))


def age(engine: Engine, days: int) -> None:
    """Make everything that is there older."""
    outbox, commands = tables.outbox, tables.commands
    with engine.begin() as connection:
        for table, names in (
            (outbox, ("created_at", "sent_at")),
            (commands, ("accepted_at", "decided_at")),
        ):
            key = next(iter(table.primary_key))
            for row in connection.execute(select(table)).all():
                older = {
                    name: getattr(row, name) - timedelta(days=days)
                    for name in names
                    if getattr(row, name)
                }
                connection.execute(update(table).where(key == getattr(row, key.name)).values(older))


def sequences(engine: Engine) -> list[tuple[str, int]]:
    columns = tables.outbox.c
    query = select(columns.sku, columns.sequence).where(columns.kind == "event")
    with engine.connect() as connection:
        rows = connection.execute(query.order_by(columns.sku, columns.sequence)).all()
    return [(row.sku, row.sequence) for row in rows]


def known(engine: Engine) -> set[int]:
    """Numbers of the commands that tests made."""
    with engine.connect() as connection:
        ids: list[UUID] = list(connection.scalars(select(tables.commands.c.id)))
    return {found.int for found in ids if found.int < 1_000}


def prune(engine: Engine, limits: Limits = LIMITS, step: int = 2) -> Number:
    dropped = Number()
    for each in retention.drop(engine, limits, step):
        dropped += each
    return dropped


def broken(engine: Engine) -> list[str]:
    return [proof.promise for proof in audit.run(engine, YEARS) if not proof.holds]


@pytest.fixture
def engine(sql: Storage) -> Engine:
    """The engine of each SQL database."""
    assert sql.engine is not None
    return sql.engine


def test_old_events_are_dropped_but_the_newest_of_each_product(
    sql: Storage, engine: Engine
) -> None:
    """So that the numbers of those that stay end where the product's own has come."""
    run(sql, CreateBatch("b1", "LAMP", 10), Allocate("o1", "LAMP", 1), Allocate("o2", "LAMP", 1))
    run(sql, CreateBatch("b2", "SOFA", 10), first=4)
    relay(engine)
    age(engine, 31)
    run(sql, Allocate("o3", "LAMP", 1), first=5)

    dropped = prune(engine)

    assert dropped.events == 3
    assert sequences(engine) == [("LAMP", 4), ("SOFA", 1)]
    assert broken(engine) == []


def test_events_that_were_not_sent_or_not_long_ago_stay(sql: Storage, engine: Engine) -> None:
    run(sql, CreateBatch("b1", "LAMP", 10), Allocate("o1", "LAMP", 1))
    age(engine, 31)
    run(sql, CreateBatch("b2", "SOFA", 10), Allocate("o1", "SOFA", 1), first=3)
    with engine.begin() as connection:
        connection.execute(
            update(tables.outbox).where(tables.outbox.c.sku == "SOFA").values(sent_at=NOW)
        )

    assert prune(engine).events == 0


def test_decided_commands_are_forgotten_with_their_requests(sql: Storage, engine: Engine) -> None:
    """Refused ones too; those that came lately stay."""
    accept(message(CreateBatch("b1", "LAMP", 10), 1), sql.unit_of_work())
    run(sql, CreateBatch("b1", "LAMP", 10), Allocate("o1", "SOFA", 1))
    relay(engine)
    age(engine, 31)
    run(sql, Allocate("o2", "LAMP", 1), first=3)

    dropped = prune(engine)

    assert (dropped.commands, known(engine)) == (2, {3})
    with engine.connect() as connection:
        requests = select(tables.outbox.c.id).where(tables.outbox.c.id == UUID(int=1))
        assert connection.scalar(requests) is None


def test_commands_that_are_pending_failed_or_still_to_be_sent_stay(
    sql: Storage, engine: Engine
) -> None:
    """Sent after it was forgotten, a command would count as new."""
    run(sql, CreateBatch("b1", "LAMP", 10))
    accept(message(Allocate("o1", "LAMP", 1), 2), sql.unit_of_work())
    fail(message(Allocate("o2", "LAMP", 1), 3), "no luck", sql.unit_of_work())
    relay(engine)
    accept(message(Allocate("o3", "LAMP", 1), 4), sql.unit_of_work())
    run(sql, Allocate("o3", "LAMP", 1), first=4)
    age(engine, 400)

    prune(engine)

    assert known(engine) == {2, 3, 4}


def test_the_proofs_hold_after_each_step_and_it_may_be_broken_off(
    sql: Storage, engine: Engine
) -> None:
    """A line that was given up stays accounted for."""
    run(sql, CreateBatch("b1", "LAMP", 10))
    for number in range(2, 20, 2):
        run(sql, Allocate(f"o{number}", "LAMP", 1), Deallocate(f"o{number}", "LAMP"), first=number)
    serve_all(engine)
    relay(engine)
    age(engine, 40)

    for number, _ in enumerate(retention.drop(engine, LIMITS, step=3), start=1):
        assert broken(engine) == []
        if number == 7:
            break
    steps = 0
    for dropped in retention.drop(engine, LIMITS, step=3):
        steps += 1
        assert dropped.events + dropped.commands <= 3
        assert broken(engine) == []

    assert steps > 5
    assert (sequences(engine), known(engine)) == ([("LAMP", 19)], set())


def test_what_gave_an_order_up_is_kept_longer_than_what_asked_for_its_lines(
    sql: Storage, engine: Engine
) -> None:
    """Both are of the same age: a line without either would be missed."""
    run(sql, CreateBatch("b1", "LAMP", 10), Allocate("o1", "LAMP", 1), CancelOrder("o1"))
    relay(engine)
    age(engine, 1)

    prune(engine, Limits(events=MONTH_AGO, commands=NOW), step=9)

    assert known(engine) == {3}
    assert broken(engine) == []


def test_what_would_be_dropped_is_counted_as_it_is_dropped(sql: Storage, engine: Engine) -> None:
    run(sql, CreateBatch("b1", "LAMP", 10), Allocate("o1", "LAMP", 1), Deallocate("o1", "LAMP"))
    relay(engine)
    age(engine, 31)

    counted = retention.past(engine, LIMITS)

    assert counted == Number(events=2, commands=2)
    assert prune(engine) == counted
    assert retention.past(engine, LIMITS) == Number()


def test_a_command_forgotten_at_the_very_moment_it_comes_again_counts_as_new(
    database_url: str,
) -> None:
    """Whoever accepts it saw it a statement ago, and tries again; whoever decides it did not."""
    engine = database.engine(database_url)
    other = database.engine(database_url)
    storage = Storage(lambda: SqlUnitOfWork(engine), list, engine)
    command = message(CreateBatch("b1", "LAMP", 10), 1)

    def forget(_c: object, _cursor: object, statement: str, *_: object) -> None:
        if statement.startswith("SELECT commands") and statement.endswith("FOR UPDATE"):
            relay(other)
            prune(other, EVERYTHING)

    def repeat(handler: Callable[[Message, UnitOfWork], object]) -> object:
        event.listen(engine, "before_cursor_execute", forget)
        try:
            return handler(command, storage.unit_of_work())
        finally:
            event.remove(engine, "before_cursor_execute", forget)

    assert isinstance(execute(command, storage.unit_of_work()), Succeeded)
    with pytest.raises(ConcurrentUpdate):
        repeat(accept)
    assert known(engine) == set()

    accept(command, storage.unit_of_work())
    assert isinstance(execute(command, storage.unit_of_work()), Refused)  # taken, by the first
    assert isinstance(repeat(execute), Refused)
    assert known(engine) == {1}
    engine.dispose()
    other.dispose()


@pytest.mark.timeout(300)
def test_pruning_under_a_storm_of_commands_harms_nobody(database_url: str) -> None:
    """All that is decided and sent counts as past its time; the proofs hold all the while."""
    engine = database.engine(database_url)
    storage = Storage(lambda: SqlUnitOfWork(engine), list, engine)
    run(storage, *(CreateBatch(f"batch-{number}", "LAMP", 500) for number in range(BATCHES)))
    spawn = multiprocessing.get_context("spawn")
    stormy = [spawn.Process(target=storm, args=(database_url, seed, 120)) for seed in (1, 2)]

    for process in stormy:
        process.start()
    dropped, proved = Number(), 0
    while any(process.is_alive() for process in stormy):
        relay(engine)
        dropped += prune(engine, EVERYTHING, step=20)
        assert broken(engine) == []
        proved += 1
    serve_all(engine)
    relay(engine)
    dropped += prune(engine, EVERYTHING)

    assert [process.exitcode for process in stormy] == [0, 0]
    assert broken(engine) == []
    assert proved >= 3
    with engine.connect() as connection:
        assert connection.scalar(select(func.count()).select_from(tables.commands)) == 0
        assert connection.scalar(select(func.count()).select_from(tables.outbox)) == 1
        assert (connection.scalar(select(func.count()).select_from(tables.allocations)) or 0) > 200
    assert dropped.commands > 240
    engine.dispose()


def test_the_command_says_what_it_dropped(
    sql: Storage, engine: Engine, processes: Callable[..., Process], state_dir: str
) -> None:
    """After a dry run, which drops nothing; the settings say what is past its time."""
    run(sql, CreateBatch("b1", "LAMP", 10), Allocate("o1", "LAMP", 1), AllocateWaiting("LAMP"))
    serve_all(engine)
    relay(engine)
    age(engine, 4)
    environment = {
        "ALLOCATION_DATABASE_URL": engine.url.render_as_string(hide_password=False),
        "ALLOCATION_STATE_DIR": str(state_dir),
        "ALLOCATION_KEEP_EVENTS": "3",
        "ALLOCATION_KEEP_COMMANDS": "5",
    }

    def told(*arguments: str, **changes: str) -> str:
        command = [sys.executable, "-m", "allocation", "prune", *arguments]
        process = processes(command, name="prune", env=environment | changes)
        assert process.wait(30) == 0
        return process.logs()

    assert json.loads(told("--dry-run", "--json")) == {"dry_run": True, "events": 1, "commands": 0}
    assert told().startswith("1 event sent before ")
    assert "3 commands decided before " in told(ALLOCATION_KEEP_COMMANDS="3")
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT count(*) FROM commands")) == 0
