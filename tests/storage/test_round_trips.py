"""How often a unit of work asks PostgreSQL: each time costs a command as much as a commit."""

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine, text

from allocation.adapters.sql import database
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate, CreateBatch
from allocation.service_layer.execution import accept, execute, execute_batch
from tests.faults.proxy import Proxy, Queries
from tests.storage.conftest import message


@pytest.fixture
def queries() -> Queries:
    return Queries()


@pytest.fixture
def engine(database_url: str, queries: Queries) -> Iterator[Engine]:
    """Through a proxy that sees the queries; its connection has prepared the statements."""
    proxy = Proxy(database_url, watch=queries)
    made = database.engine(proxy.url)
    execute(message(CreateBatch("b1", "LAMP", 100), 1), SqlUnitOfWork(made))
    execute(message(Allocate("o1", "LAMP", 1), 2), SqlUnitOfWork(made))
    accept(message(Allocate("o2", "LAMP", 1), 3), SqlUnitOfWork(made))
    execute(message(Allocate("o2", "LAMP", 1), 3), SqlUnitOfWork(made))
    queries.queries.clear()
    yield made
    made.dispose()
    proxy.close()


def outline(query: str) -> str:
    """Its statements without their arguments: BEGIN, EXECUTE, EXECUTE."""
    return ", ".join(re.findall(r"(?:^|; ?)([A-Z]+)", query))


def test_a_lone_allocation_reads_by_one_message_and_writes_and_commits_by_another(
    engine: Engine, queries: Queries
) -> None:
    execute(message(Allocate("o3", "LAMP", 1), 4), SqlUnitOfWork(engine))

    assert list(map(outline, queries.queries)) == [
        "BEGIN, SET, EXECUTE, EXECUTE",
        "EXECUTE, EXECUTE, EXECUTE, EXECUTE, EXECUTE, NOTIFY, COMMIT",
    ]


def test_so_do_many_commands_that_were_accepted_before(engine: Engine, queries: Queries) -> None:
    messages = [message(Allocate(f"o{number}", "LAMP", 1), number) for number in range(10, 60)]
    for each in messages:
        accept(each, SqlUnitOfWork(engine))
    queries.queries.clear()

    execute_batch(messages, SqlUnitOfWork(engine))

    assert list(map(outline, queries.queries)) == [
        "BEGIN, SET, EXECUTE, EXECUTE",
        "EXECUTE, EXECUTE, EXECUTE, EXECUTE, NOTIFY, EXECUTE, NOTIFY, COMMIT",
    ]


def test_a_repeat_ends_its_transaction(engine: Engine, queries: Queries) -> None:
    repeated = message(Allocate("o3", "LAMP", 1), 4)
    execute(repeated, SqlUnitOfWork(engine))
    queries.queries.clear()

    execute(repeated, SqlUnitOfWork(engine))

    assert list(map(outline, queries.queries)) == ["BEGIN, SET, EXECUTE, EXECUTE", "COMMIT"]


def test_a_unit_of_work_that_is_left_without_a_commit_gives_its_locks_back(
    engine: Engine, queries: Queries
) -> None:
    with SqlUnitOfWork(engine) as uow:
        uow.claim([message(Allocate("o3", "LAMP", 1), 4)])

    assert list(map(outline, queries.queries)) == ["BEGIN, SET, EXECUTE, EXECUTE", "ROLLBACK"]
    with engine.connect() as connection:
        in_transaction = text(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND state LIKE 'idle in%'"
        )
        assert connection.scalar(in_transaction) == 0


def test_a_unit_of_work_that_fails_gives_its_locks_back(engine: Engine, queries: Queries) -> None:
    def fail() -> None:
        with SqlUnitOfWork(engine) as uow:
            uow.claim([message(Allocate("o3", "LAMP", 1), 4)])
            uow._connection.execute(text("SELECT 1 / 0"))

    with pytest.raises(Exception, match="division by zero"):
        fail()

    assert outline(queries.queries[-1]) == "ROLLBACK"
    execute(message(Allocate("o3", "LAMP", 1), 4), SqlUnitOfWork(engine))


def test_what_is_planned_while_the_tables_are_small_uses_indexes_all_the_same(
    engine: Engine,
) -> None:
    """Else a scan, or a join without an index, lasts until the tables are analyzed."""
    with engine.connect() as connection:
        [read] = [name for sql, name in connection.info["prepared"].items() if "json_agg" in sql]
        connection.execute(text("SET LOCAL enable_seqscan TO off"))  # as the message does
        connection.execute(text("SET LOCAL plan_cache_mode TO force_generic_plan"))
        connection.execute(text("SELECT set_config('allocation.locked', '{LAMP}', true)"))

        plan = connection.exec_driver_sql(
            f"EXPLAIN EXECUTE {read} ('{{}}', '{{}}', '{{}}', '{{}}')"
        )

        text_of_plan = "\n".join(plan.scalars())
    assert [word for word in ("Seq Scan", "Join Filter", "Hash") if word in text_of_plan] == []
    assert text_of_plan.count("Index Cond") == 9


def test_only_a_connection_that_lay_idle_is_asked_whether_it_works(
    engine: Engine, queries: Queries, monkeypatch: pytest.MonkeyPatch
) -> None:
    with engine.connect():
        pass
    assert queries.queries == []

    monkeypatch.setattr("allocation.messaging.database.IDLE", 0)
    with engine.connect():
        pass

    assert outline(queries.queries[0]) == "SELECT"
