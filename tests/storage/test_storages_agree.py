"""The same commands give the same events and outcomes on every storage, however it loads them."""

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine, delete

from allocation.adapters.sql import books, database, migrations, tables
from allocation.domain import product
from allocation.domain.commands import (
    Allocate,
    AllocateOrder,
    AllocateWaiting,
    BlockBatch,
    CancelOrder,
    ChangeBatchEta,
    ChangeBatchQuantity,
    ChangeBestBefore,
    ChangeLineQuantity,
    ChangePriority,
    ChooseStrategy,
    Command,
    Confirm,
    CreateBatch,
    CreateProduct,
    Deallocate,
    Dispatch,
    Expire,
    ExpireBatch,
    Extend,
    MarkOverdue,
    Receive,
    Release,
    Reserve,
    ReturnGoods,
    ReviewPromises,
    UnblockBatch,
    Wanted,
    WriteOff,
)
from allocation.domain.strategies import STRATEGIES, WAITING_RULES
from allocation.service_layer.execution import execute_batch
from allocation.service_layer.unit_of_work import Message
from tests.storage.conftest import Storage, memory_storage, message, sql_storage

orders = st.sampled_from([f"order-{number}" for number in range(8)])
refs = st.sampled_from([f"batch-{number}" for number in range(4)])
skus = st.sampled_from(["LAMP", "CHAIR"])
quantities = st.integers(min_value=1, max_value=9)
etas = st.none() | st.dates(date(2030, 1, 1), date(2030, 1, 9))
group_sizes = st.integers(min_value=1, max_value=10)


def moment(second: int) -> datetime:
    return datetime(2030, 1, 1, 0, 0, second, tzinfo=UTC)


NOW = moment(0)  # the clock stands still, so that a guess may hit when something ends


priorities = st.integers(min_value=0, max_value=2)
fresh_days = st.sampled_from([0, 0, 0, 1, 3])
versions = st.sampled_from([None, None, None, "stale"])
strategies = st.sampled_from(sorted(STRATEGIES))
rules = st.sampled_from(WAITING_RULES)
wishes = {
    "split": st.booleans(),
    "priority": priorities,
    "not_before": st.none() | etas,
    "fresh_days": fresh_days,
}
wanted = st.builds(Wanted, skus, quantities, **wishes)
of_batches: st.SearchStrategy[Command] = st.one_of(
    st.builds(CreateBatch, refs, skus, quantities, etas, etas),
    st.builds(ChangeBatchQuantity, refs, st.integers(min_value=0, max_value=9), versions),
    st.builds(Receive, refs, quantities),
    st.builds(ChangeBatchEta, refs, etas, versions),
    st.builds(ChangeBestBefore, refs, etas, versions),
    st.builds(BlockBatch, refs, st.sampled_from(["recall", "damp"]), versions),
    st.builds(UnblockBatch, refs, versions),
    st.builds(WriteOff, refs, quantities, st.just("water damage")),
    st.builds(ReviewPromises, refs),
    st.builds(ExpireBatch, refs, etas.filter(bool)),
    st.builds(MarkOverdue, refs, etas.filter(bool)),
)
of_lines: st.SearchStrategy[Command] = st.one_of(
    st.builds(Allocate, orders, skus, quantities, st.none(), **wishes),
    st.builds(
        Reserve, orders, skus, quantities, st.integers(1, 3), st.none() | st.just("c"), **wishes
    ),
    st.builds(
        AllocateOrder,
        orders,
        st.lists(wanted, min_size=1, max_size=2).map(tuple),
        st.booleans(),
        st.none() | st.integers(1, 3),
    ),
    st.builds(Deallocate, orders, skus, versions),
    st.builds(CancelOrder, orders),
    st.builds(ChangeLineQuantity, orders, skus, quantities, versions),
    st.builds(ChangePriority, orders, priorities, st.none() | skus),
    st.builds(Confirm, orders, st.booleans()),
    st.builds(Extend, orders, st.integers(1, 3)),
    st.builds(Release, orders),
    st.builds(Expire, orders, st.integers(1, 3).map(moment)),
    st.builds(Dispatch, orders, skus, st.none() | refs, st.none() | quantities),
    st.builds(ReturnGoods, orders, skus, quantities, refs, st.booleans()),
)
one_command: st.SearchStrategy[Command] = st.one_of(
    st.builds(CreateProduct, skus, strategies, rules, st.booleans()),
    st.builds(ChooseStrategy, skus, strategies, rules, st.booleans(), versions),
    st.builds(AllocateWaiting, skus),
    of_batches,
    of_lines,
    of_lines,
)


def play(storage: Storage, commands: list[Command], together: int = 1) -> tuple[list[Any], ...]:
    """Outcomes, events, and commands that are to follow, when so many are decided together."""
    messages = [message(command, number) for number, command in enumerate(commands, start=1)]
    outcomes = [
        outcome
        for group in batched(messages, together)
        for outcome in execute_batch(group, storage.unit_of_work())
    ]
    sent = storage.outbox()
    return (
        outcomes,
        [each for each in sent if "sequence" in each[1]],
        [each for each in sent if "sequence" not in each[1]],
    )


def batched(messages: list[Message], size: int) -> Iterator[list[Message]]:
    for first in range(0, len(messages), size):
        yield messages[first : first + size]


def empty(engine: Engine) -> None:
    with engine.begin() as connection:
        for table in reversed(tables.metadata.sorted_tables):
            connection.execute(delete(table))


@pytest.fixture(autouse=True, scope="module")
def small_bounds() -> Any:
    """Bounds so small that chunks and follow-ups are played as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "LINES_PER_COMMAND", 2)
        patch.setattr(books, "CHUNK", 2)
        yield


def agree(engine: Engine, commands: list[Command], together: int) -> None:
    """In groups as in memory; and the groups tell the same as one command after another."""
    empty(engine)

    on_sql = play(sql_storage(engine, clock=lambda _: NOW), commands, together)

    assert on_sql == play(memory_storage(now=lambda: NOW), commands, together)
    outcomes, events, following = play(memory_storage(now=lambda: NOW), commands)
    assert on_sql[:2] == (outcomes, events)
    assert {str(each) for each in on_sql[2]} == {str(each) for each in following}


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(commands=st.lists(one_command, max_size=30), together=group_sizes)
def test_sqlite_agrees_with_memory(tmp_path: Path, commands: list[Command], together: int) -> None:
    """Only a part of the books is loaded, and nobody notices."""
    url = f"sqlite:///{tmp_path}/twin.db"
    migrations.upgrade(url)
    engine = database.engine(url)

    agree(engine, commands, together)

    engine.dispose()


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(commands=st.lists(one_command, max_size=30), together=group_sizes)
def test_postgresql_agrees_with_memory(
    database_url: str, commands: list[Command], together: int
) -> None:
    """Only a part of the books is loaded, and nobody notices."""
    engine = database.engine(database_url)

    agree(engine, commands, together)

    engine.dispose()
