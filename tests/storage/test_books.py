"""Each database orders lines as the domain does."""

from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime, timedelta
from random import Random

import pytest
from sqlalchemy import insert

from allocation.adapters.memory import MemoryBooks
from allocation.adapters.sql import books, tables
from allocation.adapters.sql.books import SqlBooks
from allocation.domain.books import Batch, Books, Line
from allocation.domain.strategies import service_order, shortage_order
from allocation.messaging.statements import Writes
from tests.storage.conftest import Storage

TODAY = date(2030, 1, 1)
NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(books, "CHUNK", 3)


@contextmanager
def books_with(sql: Storage, lines: list[Line]) -> Iterator[SqlBooks]:
    """Books of the lines, added in a random order."""
    assert sql.engine is not None
    with sql.engine.connect() as connection:
        connection.execute(insert(tables.products).values(sku="LAMP", version=0, sequence=0))
        made = SqlBooks(connection, "LAMP", {})
        made.add_batch(Batch("b1", "LAMP", 100, allocated=len(lines)))
        for line in Random(7).sample(lines, len(lines)):
            made.add_line(line)
        yield made


def test_lines_give_way_in_the_order_of_the_domain(sql: Storage) -> None:
    ends = [None, NOON, None, NOON, NOON, None, None, NOON]
    lines = [
        Line(
            *(f"o{n}", "LAMP", 1),
            age=n,
            batchref="b1",
            promised_at=n,
            expires_at=end,
            priority=n % 3,
        )
        for n, end in enumerate(ends, start=1)
    ]
    expected = [line.orderid for line in sorted(lines, key=shortage_order)]

    gave_way = []
    with books_with(sql, lines) as made:
        for line in made.lines_that_give_way("b1"):
            gave_way.append(line.orderid)
            line.batchref = line.promised_at = None

    assert gave_way == expected


def test_waiting_lines_are_served_in_the_order_of_the_domain(sql: Storage) -> None:
    lines = [
        Line(
            *(f"o{n}", "LAMP", qty),
            age=n,
            smallest_part=1 if qty == 9 else None,
            priority=n % 3,
        )
        for n, qty in enumerate((5, 6, 9, 1, 7, 5, 2, 9, 3), start=1)
    ]

    served: list[Line] = []
    with books_with(sql, lines) as made:
        offered = [Batch("b1", "LAMP", 5)]
        while line := made.first_waiting(offered, TODAY, after=served[-1] if served else None):
            served.append(line)

    assert served == [line for line in sorted(lines, key=service_order) if line.needs <= 5]


def test_lines_are_announced_in_the_order_of_the_domain(sql: Storage) -> None:
    lines = [Line(f"o{n}", "LAMP", 1, age=n, told=n in (2, 3), priority=n % 2) for n in range(1, 8)]

    with books_with(sql, lines) as made:
        announced = made.waiting_unannounced(4)

    unannounced = [line for line in sorted(lines, key=service_order) if not line.told]
    assert announced == unannounced[:4]


DAYS = [TODAY + timedelta(days=days) for days in (-3, -1, 0, 1, 2, 5, 9)]


def random_batch(chance: Random, batchref: str) -> Batch:
    return Batch(
        *(batchref, "LAMP", 99),
        eta=chance.choice([None, None, *DAYS]),
        best_before=chance.choice([None, None, *DAYS]),
        blocked=chance.choice([None, None, None, "recall"]),
    )


def random_line(chance: Random, number: int, batches: list[Batch]) -> Line:
    line = Line(
        *(f"o{number // 2}", "LAMP", chance.randint(1, 6)),
        age=number // 2,
        part=number % 2,
        smallest_part=chance.choice([None, 1]),
        priority=(number // 2) % 3,
        not_before=chance.choice([None, None, None, *DAYS]),
        fresh_days=chance.choice([0, 0, 0, 1, 4]),
        told=chance.random() < 0.5,
    )
    if number % 2 or chance.random() < 0.5:  # of each line one part at most waits
        batch = chance.choice(batches)
        line.batchref, line.promised_at = batch.batchref, number + 1
        line.eta = chance.choice([batch.eta, *DAYS])
        line.expires_at = chance.choice([None, None, NOON])
        line.dispatched = chance.random() < 0.2
        if not line.dispatched:
            line.dispatched_qty = chance.choice([0, 0, line.qty // 2])
        batch.allocated += line.held
    return line


def random_books(chance: Random) -> tuple[list[Batch], list[Line]]:
    batches = [random_batch(chance, f"b{number}") for number in range(4)]
    lines = [random_line(chance, number, batches) for number in range(chance.randint(0, 14))]
    for batch in batches:
        batch.purchased = batch.allocated + chance.choice([0, 1, 2, 3, 6])
    return batches, lines


def answers(asked: Books, batches: list[Batch]) -> dict[str, object]:
    """What the books say to each question; lines by order and part."""
    passed: list[Line] = []
    while line := asked.first_waiting(batches, TODAY, passed[-1] if passed else None):
        passed.append(line)
    first = asked.longest_waiting()
    later = asked.promised_later(batches, TODAY)
    return {
        "first_waiting": named(passed),
        "longest_waiting": named([first] if first else []),
        "promised_later": named([later] if later else []),
        "waiting_unannounced": named(asked.waiting_unannounced(2)),
        "particular_lines": sorted(
            key for batch in batches for key in named(asked.particular_lines(batch.batchref))
        ),
        "promised_another_day": [named(asked.promised_another_day(batch, 2)) for batch in batches],
    }


def named(lines: Iterable[Line]) -> list[tuple[str, int]]:
    return [(line.orderid, line.part) for line in lines]


@pytest.mark.parametrize("stored", [True, False], ids=["stored", "not yet written"])
def test_random_books_answer_as_those_in_memory(sql: Storage, stored: bool) -> None:
    assert sql.engine is not None
    said: Counter[str] = Counter()
    with sql.engine.connect() as connection:
        for seed in range(60):
            transaction = connection.begin()
            connection.execute(insert(tables.products).values(sku="LAMP", version=0, sequence=0))
            batches, lines = random_books(Random(seed))
            made = SqlBooks(connection, "LAMP", {})
            for batch in batches:
                made.add_batch(batch)
            for line in lines:
                made.add_line(line)
            if stored:
                changes = Writes(connection)
                books.write([made], changes)
                changes.send()
                made = books.load(connection, {}, ["LAMP"], [])["LAMP"]
                loaded = [made.batch(batch.batchref) for batch in batches]
                batches = [batch for batch in loaded if batch is not None]

            expected = answers(MemoryBooks(batches, lines), batches)

            assert answers(made, batches) == expected, f"seed {seed}"
            said.update(question for question, answer in expected.items() if answer)
            transaction.rollback()
    assert min(said[question] for question in expected) > 12


def test_a_line_that_this_unit_of_work_had_promised_later_improves(sql: Storage) -> None:
    """The stored lines say that none improves; a delayed ship has changed that."""
    assert sql.engine is not None
    with sql.engine.connect() as connection:
        connection.execute(insert(tables.products).values(sku="LAMP", version=0, sequence=0))
        first = SqlBooks(connection, "LAMP", {})
        first.add_batch(Batch("ship", "LAMP", 3, allocated=3))
        first.add_batch(Batch("shelf", "LAMP", 3))
        first.add_line(Line("o1", "LAMP", 3, age=1, batchref="ship", promised_at=1))
        changes = Writes(connection)
        books.write([first], changes)
        changes.send()
        made = books.load(connection, {}, ["LAMP"], [("o1", "LAMP")])["LAMP"]
        ship, [line] = made.batch("ship"), made.parts("o1")
        assert ship is not None

        ship.eta = line.eta = TODAY

        assert made.promised_later(made.open_batches(), TODAY) is line


def test_once_the_stock_is_gone_no_more_lines_are_read_for_it(sql: Storage) -> None:
    assert sql.engine is not None
    lines = [
        Line(f"o{n}", "LAMP", 1, age=n, batchref="ship", promised_at=n, eta=DAYS[-1])
        for n in range(1, 41)
    ]
    with sql.engine.connect() as connection:
        connection.execute(insert(tables.products).values(sku="LAMP", version=0, sequence=0))
        first = SqlBooks(connection, "LAMP", {})
        first.add_batch(Batch("ship", "LAMP", 40, allocated=40, eta=DAYS[-1]))
        first.add_batch(Batch("shelf", "LAMP", 1))
        for line in lines:
            first.add_line(line)
        changes = Writes(connection)
        books.write([first], changes)
        changes.send()
        made = books.load(connection, {}, ["LAMP"], [])["LAMP"]
        shelf, ship = made.batch("shelf"), made.batch("ship")
        assert shelf is not None
        assert ship is not None

        moved = made.promised_later(made.open_batches(), TODAY)
        assert moved is not None
        assert moved.orderid == "o1"
        shelf.allocated, ship.allocated = 1, 39
        moved.batchref, moved.eta = "shelf", None

        assert made.promised_later([ship], TODAY) is None
        assert len(list(made.known_parts())) == books.CHUNK


def change(kind: str, asked: Books, batch: Batch, line: Line, number: int) -> None:
    """Change the batch or the line, as far as that is possible."""
    match kind:
        case "more":
            batch.purchased += number
        case "day":
            batch.eta = [None, *DAYS][number % (1 + len(DAYS))]
        case "priority":
            line.priority = number
        case "promise" if line.batchref is None and batch.free >= line.qty:
            line.batchref, line.promised_at, line.eta = batch.batchref, 99, batch.eta
            batch.allocated += line.qty
        case "free" | "leave" if line.batchref is not None and not line.gone:
            its = asked.batch(line.batchref)
            assert its is not None
            its.allocated -= line.qty
            line.batchref = line.promised_at = line.eta = None
        case "dispatch" if line.held > 1:
            line.dispatched_qty += 1
    if kind == "leave" and line.batchref is None:
        asked.remove_line(line)


def first_ones(asked: Books, batches: list[Batch]) -> tuple[list[str], list[str]]:
    """The lines that are served next, and the one that improves next."""
    passed: list[Line] = []
    while line := asked.first_waiting(batches, TODAY, passed[-1] if passed else None):
        passed.append(line)
    later = asked.promised_later(batches, TODAY)
    return [repr(line) for line in passed], [repr(later)] if later else []


def test_questions_are_answered_as_in_memory_while_stock_and_lines_change(sql: Storage) -> None:
    """What was read once is not read again: the changes since then have to count."""
    assert sql.engine is not None
    waiting = later = 0
    with sql.engine.connect() as connection:
        for seed in range(40):
            chance = Random(seed)
            transaction = connection.begin()
            connection.execute(insert(tables.products).values(sku="LAMP", version=0, sequence=0))
            batches, lines = random_books(chance)
            stored = SqlBooks(connection, "LAMP", {})
            for batch in batches:
                stored.add_batch(batch)
            for line in lines:
                stored.add_line(line)
            changes = Writes(connection)
            books.write([stored], changes)
            changes.send()
            made = books.load(connection, {}, ["LAMP"], [])["LAMP"]
            known = [made.batch(batch.batchref) for batch in batches]
            in_sql = [batch for batch in known if batch is not None]
            in_memory = MemoryBooks(batches, lines)
            for step in range(12 if lines else 0):
                line = chance.choice(lines)
                kind = chance.choice(
                    ["more", "day", "priority", "promise", "free", "dispatch", "leave"]
                )
                number, which = chance.randint(1, 5), chance.randrange(len(batches))
                parts = {part.part: part for part in made.parts(line.orderid)}
                if line in in_memory.parts(line.orderid):
                    change(kind, made, in_sql[which], parts[line.part], number)
                    change(kind, in_memory, batches[which], line, number)

                expected = first_ones(in_memory, batches)

                assert first_ones(made, in_sql) == expected, f"seed {seed}, step {step}: {kind}"
                waiting, later = waiting + bool(expected[0]), later + bool(expected[1])
            transaction.rollback()
    assert min(waiting, later) > 40
