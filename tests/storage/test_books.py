"""Each database orders lines as the domain does."""

from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, date, datetime
from random import Random

import pytest
from sqlalchemy import insert

from allocation.adapters.sql import books, tables
from allocation.adapters.sql.books import SqlBooks
from allocation.domain.books import Batch, Line
from allocation.domain.strategies import service_order, shortage_order
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
