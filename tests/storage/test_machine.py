"""All commands and their follow-ups, while days pass: storages agree, and the books hold."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import date, datetime, timedelta
from typing import Any, Protocol

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, Row, insert, select, update

from allocation.adapters.memory import MemoryStore
from allocation.adapters.sql import audit, books, database, tables
from allocation.contract import codec
from allocation.domain import product
from allocation.domain.books import Batch, Line
from allocation.domain.commands import Command
from allocation.domain.outcomes import Outcome
from allocation.service_layer.execution import execute
from allocation.service_layer.unit_of_work import Message
from tests.storage.conftest import Sent, Storage, memory_storage, message, sql_storage
from tests.storage.test_storages_agree import NOW, empty, one_command


@dataclass(frozen=True)
class DaysPass:
    number: int


@dataclass(frozen=True)
class FollowUp:
    """The follow-up of this place, of those that are pending or due."""

    place: int


Step = Command | DaysPass | FollowUp
steps = st.lists(
    st.one_of(
        *([one_command] * 6),
        st.builds(DaysPass, st.integers(1, 3)),
        st.builds(FollowUp, st.integers(0, 3)),
        st.builds(FollowUp, st.integers(0, 3)),
    ),
    min_size=10,
    max_size=50,
)
YEARS = 9_999 * 24 * 3600.0
MOST = 1_000
"""Follow-ups that a play may leave: with more of them it would not end."""


class Side(Protocol):
    """A storage beside another one."""

    storage: Storage
    now: datetime

    def pending(self) -> Sequence[Message]:
        """Follow-ups that are pending, or due by now."""
        ...

    def books(self) -> tuple[list[Batch], list[Line]]: ...


class MemorySide:
    def __init__(self) -> None:
        self.now = NOW
        self.store = MemoryStore()
        self.storage = memory_storage(lambda: self.now, self.store)

    def pending(self) -> Sequence[Message]:
        commands = self.store.commands.values()
        pending = [row.message for row in commands if row.status == "pending"]
        decided = {row.message.id for row in commands if row.status != "pending"}
        due = [message for message, when in self.store.scheduled.items() if when <= self.now]
        return [*pending, *(message for message in due if message.id not in decided)]

    def books(self) -> tuple[list[Batch], list[Line]]:
        return list(self.store.batches.values()), list(self.store.lines.values())


class SqlSide:
    def __init__(self, engine: Engine) -> None:
        self.now = NOW
        self.engine = engine
        self.storage = sql_storage(engine, clock=self.clock)

    def clock(self, _connection: Connection) -> datetime:
        return self.now

    def pending(self) -> Sequence[Message]:
        with self.engine.begin() as connection:
            self._accept_due(connection)
            rows = connection.execute(select(tables.commands).where(tables.is_pending)).all()
        return [_message(row) for row in rows]

    def books(self) -> tuple[list[Batch], list[Line]]:
        with self.engine.connect() as connection:
            stored = [tables.batches.c[each.name] for each in fields(Batch)]
            batches = connection.execute(select(*stored)).all()
            lines = connection.execute(select(tables.allocations)).all()
        return [Batch(**row._mapping) for row in batches], [Line(**row._mapping) for row in lines]

    def _accept_due(self, connection: Connection) -> None:
        """As the relay would, by the clock of the play."""
        outbox = tables.outbox.c
        is_due = tables.is_scheduled & (outbox.due_at <= self.now)
        for row in connection.execute(select(tables.outbox).where(is_due)).all():
            of_command = ("id", "name", "body", "correlation_id", "causation_id")
            known = {name: getattr(row, name) for name in of_command}
            connection.execute(
                insert(tables.commands).values(**known, status="pending", accepted_at=self.now)
            )
        connection.execute(update(tables.outbox).where(is_due).values(due_at=None))


def _message(row: Row[Any]) -> Message:
    command = codec.parse_command(row.name, row.body)
    return Message(row.id, command, row.correlation_id, row.causation_id)


def play(side: Side, played: list[Step]) -> list[Outcome]:
    """The outcomes of the steps, and then of all follow-ups that there are."""
    outcomes = []
    for number, step in enumerate(played, start=1):
        if isinstance(step, DaysPass):
            side.now += timedelta(days=step.number)
        elif isinstance(step, FollowUp):
            outcomes += follow(side, step.place)
        else:
            outcomes.append(execute(message(step, number), side.storage.unit_of_work()))
    for _ in range(MOST):
        followed = follow(side, 0)
        if not followed:
            return outcomes
        outcomes += followed
    raise AssertionError(f"follow-ups without an end: {side.pending()[:3]}")


def follow(side: Side, place: int) -> list[Outcome]:
    pending = sorted(side.pending(), key=lambda message: (repr(message.command), message.id))
    return [execute(message, side.storage.unit_of_work()) for message in pending[place : place + 1]]


@dataclass
class Known:
    """Batches, promises, and what has left and come back: all that subscribers may know."""

    batches: dict[str, dict[str, Any]]
    promises: dict[tuple[str, str, int], tuple[str | None, int, Any, Any]]
    """By part of a line: the batch, the pieces, the day and the end of a reservation."""
    gone: Counter[tuple[str, str, str]]
    returned: Counter[tuple[str, str]]


def known_by_the_books(batches: list[Batch], lines: list[Line]) -> Known:
    known = Known({batch.batchref: vars(batch) for batch in batches}, {}, Counter(), Counter())
    for line in lines:
        if line.gone and line.batchref:
            known.gone[line.orderid, line.sku, line.batchref] += line.gone
        if line.returned:
            known.returned[line.orderid, line.sku] += line.returned
        if line.held:
            promise = line.batchref, line.qty, line.eta, line.expires_at
            known.promises[line.orderid, line.sku, line.part] = promise
    return known


class Subscriber:
    """Follows the events from the first one on."""

    def __init__(self) -> None:
        self.batches: dict[str, Batch] = {}
        self.known = Known({}, {}, Counter(), Counter())
        self.left: Counter[tuple[str, str, int]] = Counter()
        """Of a promise: the pieces that have left."""

    def take(self, kind: str, data: dict[str, Any]) -> None:
        if kind == "batch_created":
            fixed = data["batchref"], data["sku"], data["qty"]
            days = {name: _day(data.get(name)) for name in ("eta", "best_before")}
            self.batches[data["batchref"]] = Batch(*fixed, **days)
        elif "orderid" in data:
            self.take_of_line(kind, data)
        elif "batchref" in data:
            self.take_of_batch(kind, self.batches[data["batchref"]], data)

    def take_of_batch(self, kind: str, batch: Batch, data: dict[str, Any]) -> None:
        match kind:
            case "batch_quantity_changed":
                batch.purchased = data["qty"]
            case "batch_eta_changed":
                batch.eta, batch.overdue = _day(data.get("eta")), False
            case "best_before_changed":
                batch.best_before, batch.expired = _day(data.get("best_before")), False
            case "batch_blocked":
                batch.blocked = data["reason"]
            case "batch_unblocked":
                batch.blocked = None
            case "batch_expired":
                assert not batch.expired
                batch.expired = True
            case "batch_overdue":
                assert not batch.overdue
                batch.overdue = True
            case _:
                assert kind in ("received", "written_off")

    def take_of_line(self, kind: str, data: dict[str, Any]) -> None:
        part = data["orderid"], data["sku"], data.get("part", 0)
        match kind:
            case "allocated" | "reserved":
                self.end(part)
                ends = data.get("expires_at")
                until = datetime.fromisoformat(ends) if ends else None
                promise = data["batchref"], data["qty"], _day(data.get("eta")), until
                self.known.promises[part] = promise
                self.batches[data["batchref"]].allocated += data["qty"]
            case "promise_changed":
                batchref, qty, _, until = self.known.promises[part]
                self.known.promises[part] = batchref, qty, _day(data.get("new_eta")), until
            case "deallocated" | "reservation_released" | "out_of_stock":
                self.end(part)
            case "dispatched":
                batch = self.batches[data["batchref"]]
                batch.purchased -= data["qty"]
                batch.allocated -= data["qty"]
                self.left[part] += data["qty"]
                self.known.gone[data["orderid"], data["sku"], data["batchref"]] += data["qty"]
                if not data.get("left"):
                    self.end(part)
            case "returned":
                self.known.returned[data["orderid"], data["sku"]] += data["qty"]
            case _:
                assert kind in ("line_quantity_changed", "priority_changed")

    def end(self, part: tuple[str, str, int]) -> None:
        if part in self.known.promises:
            batchref, qty, *_ = self.known.promises.pop(part)
            self.batches[batchref or ""].allocated -= qty - self.left.pop(part, 0)


def known_by_the_events(sent: list[Sent]) -> Known:
    subscriber = Subscriber()
    for name, data in sent:
        if "sequence" in data:
            subscriber.take(name.removeprefix("allocation.").removesuffix(".v1"), data)
    subscriber.known.batches = {ref: vars(batch) for ref, batch in subscriber.batches.items()}
    return subscriber.known


def _day(text: str | None) -> Any:
    return None if text is None else date.fromisoformat(text)


@pytest.fixture(autouse=True, scope="module")
def small_bounds() -> Any:
    """Bounds so small that chunks and follow-ups are played as well."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(product, "LINES_PER_COMMAND", 2)
        patch.setattr(books, "CHUNK", 2)
        yield


def agree_and_hold(engine: Engine, played: list[Step]) -> None:
    empty(engine)
    sql, memory = SqlSide(engine), MemorySide()

    outcomes = play(sql, played)

    assert outcomes == play(memory, played)
    assert events_of(sql) == events_of(memory)
    assert stored_by(sql) == stored_by(memory)
    assert known_by_the_events(sql.storage.outbox()) == known_by_the_books(*sql.books())
    held = audit.run(engine, overdue_after=YEARS, clock=sql.clock)
    assert [proof for proof in held if not proof.holds] == []


def events_of(side: Side) -> list[Sent]:
    return [each for each in side.storage.outbox() if "sequence" in each[1]]


def stored_by(side: Side) -> list[dict[str, Any]]:
    batches, lines = side.books()
    return sorted((vars(each) for each in (*batches, *lines)), key=repr)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(played=steps)
def test_all_commands_agree_on_sqlite_and_the_books_hold(
    sqlite_url: str, played: list[Step]
) -> None:
    engine = database.engine(sqlite_url)

    agree_and_hold(engine, played)

    engine.dispose()


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(played=steps)
def test_all_commands_agree_on_postgresql_and_the_books_hold(
    database_url: str, played: list[Step]
) -> None:
    engine = database.engine(database_url)

    agree_and_hold(engine, played)

    engine.dispose()
