"""The list of products and the moves, as the pages read them, on each SQL database."""

import itertools
from collections.abc import Sequence
from datetime import date
from typing import Any

import pytest
from sqlalchemy import insert, select

from allocation.adapters.sql import tables
from allocation.domain.books import Batch
from allocation.domain.commands import (
    Allocate,
    BlockBatch,
    ChangeBatchQuantity,
    CreateBatch,
    CreateProduct,
    Dispatch,
)
from allocation.service_layer.execution import accept, execute
from allocation.views import catalogue, lines, moves, snapshot, stock
from allocation.views.catalogue import Listed, Totals
from tests.storage.conftest import Storage, message

TODAY = date(2030, 1, 10)


def do(storage: Storage, commands: Sequence[Any], first: int = 1) -> None:
    """Accept and decide each; their ids are numbers from `first` on."""
    for number, command in enumerate(commands, first):
        accept(message(command, number), storage.unit_of_work())
        execute(message(command, number), storage.unit_of_work())


@pytest.fixture
def stocked(sql: Storage) -> Storage:
    """Four products: two that lines wait for, one with shipments, one with neither."""
    do(
        sql,
        [
            CreateBatch("a-1", "APRON", 5),
            CreateBatch("b-1", "BED", 2),
            CreateBatch("b-2", "BED", 7, date(2030, 2, 1)),
            CreateBatch("b-3", "BED", 4, date(2030, 1, 9)),
            CreateBatch("b-4", "BED", 4, date(2030, 1, 10)),
            CreateBatch("c-1", "CUP_1", 3),
            CreateBatch("d-1", "DESK", 1),
            Allocate("order-1", "BED", 2),
            Allocate("order-2", "BED", 3),
            Allocate("order-3", "DESK", 4),
            Allocate("order-4", "DESK", 5),
            Allocate("order-5", "CUP_1", 9),
            Dispatch("order-1", "BED"),
        ],
    )
    return sql


def listed(storage: Storage, **asked: Any) -> list[Listed]:
    assert storage.engine is not None
    with snapshot(storage.engine) as connection:
        return catalogue.page(connection, TODAY, **asked)


def skus(storage: Storage, **asked: Any) -> list[str]:
    return [each.sku for each in listed(storage, **asked)]


def test_products_are_listed_with_their_figures_those_in_trouble_first(stocked: Storage) -> None:
    """What left is nobody's any more; a batch whose day is past is overdue, and no arrival."""
    assert listed(stocked) == [
        Listed("CUP_1", on_hand=3, available=3, waiting_lines=1, waiting=9),
        Listed("DESK", on_hand=1, available=1, waiting_lines=2, waiting=9),
        Listed("APRON", on_hand=5, available=5),
        Listed("BED", promised=3, available=12, next_arrival=date(2030, 1, 10), overdue=1),
    ]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_pages_follow_each_other_without_a_gap_or_a_repeat(stocked: Storage, size: int) -> None:
    found: list[str] = []
    after = catalogue.START
    while page := listed(stocked, after=after, limit=size):
        found += [each.sku for each in page]
        after = catalogue.place_of(page[-1])

    assert found == ["CUP_1", "DESK", "APRON", "BED"]


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ({"containing": "e"}, ["DESK", "BED"]),
        ({"containing": "_"}, ["CUP_1"]),
        ({"containing": "%"}, []),
        ({"containing": "e", "only_trouble": True}, ["DESK"]),
        ({"only_trouble": True}, ["CUP_1", "DESK"]),
    ],
)
def test_the_list_is_filtered(stocked: Storage, asked: dict[str, Any], found: list[str]) -> None:
    """By a part of the sku in any case, as it is written; by trouble."""
    assert skus(stocked, **asked) == found


def test_everything_is_listed_in_the_order_of_the_pages(stocked: Storage) -> None:
    assert stocked.engine is not None
    with snapshot(stocked.engine) as connection:
        everything = list(catalogue.everything(connection, TODAY))

    assert everything == listed(stocked)


def test_the_totals_are_those_of_all_products(stocked: Storage) -> None:
    assert stocked.engine is not None
    with snapshot(stocked.engine) as connection:
        assert catalogue.totals(connection) == Totals(4, 2, 3, 18)


def test_waiting_lines_are_listed_by_age(stocked: Storage) -> None:
    """A line that gave way keeps the age it had."""
    do(
        stocked,
        [
            CreateBatch("d-2", "DESK", 20),
            Allocate("order-6", "DESK", 6),
            ChangeBatchQuantity("d-2", 1),
            ChangeBatchQuantity("d-1", 0),
        ],
        50,
    )
    assert stocked.engine is not None

    with snapshot(stocked.engine) as connection:
        first = lines.waiting(connection, "DESK", limit=2)
        rest = lines.waiting(connection, "DESK", after=first[-1]["place"])

    assert [(each["orderid"], each["qty"]) for each in first + rest] == [
        ("order-3", 4),
        ("order-4", 5),
        ("order-6", 6),
    ]


def test_moves_are_told_newest_first_page_by_page(stocked: Storage) -> None:
    assert stocked.engine is not None

    with snapshot(stocked.engine) as connection:
        first = moves.of_product(connection, "BED", limit=3)
        rest = moves.of_product(connection, "BED", before=first[-1]["sequence"])

    assert [(each["sequence"], each["event"], each["orderid"]) for each in first + rest] == [
        (7, "allocation.dispatched.v1", "order-1"),
        (6, "allocation.allocated.v1", "order-2"),
        (5, "allocation.allocated.v1", "order-1"),
        (4, "allocation.batch_created.v1", None),
        (3, "allocation.batch_created.v1", None),
        (2, "allocation.batch_created.v1", None),
        (1, "allocation.batch_created.v1", None),
    ]


def test_moves_of_an_order_are_those_of_all_its_lines(stocked: Storage) -> None:
    do(stocked, [Allocate("order-1", "APRON", 1), Allocate("order-1", "DESK", 9)], 50)
    assert stocked.engine is not None

    with snapshot(stocked.engine) as connection:
        found = moves.of_order(connection, "order-1", limit=3)

    assert [(each["sku"], each["event"]) for each in found] == [
        ("DESK", "allocation.out_of_stock.v1"),
        ("APRON", "allocation.allocated.v1"),
        ("BED", "allocation.dispatched.v1"),
    ]


_DAYS = (None, date(2030, 1, 9), date(2030, 1, 10), date(2030, 2, 1))


@pytest.mark.parametrize("today", [date(2030, 1, 9), date(2030, 1, 10), date(2030, 1, 11)])
def test_sql_says_of_each_batch_what_the_rule_says(sql: Storage, today: date) -> None:
    """Whether it is good, and whether it is overdue."""
    assert sql.engine is not None
    known = [
        Batch(f"b-{number}", "LAMP", 1, eta, best_before=best_before, blocked=blocked)
        for number, (eta, best_before, blocked) in enumerate(
            itertools.product(_DAYS, _DAYS, (None, "recall"))
        )
    ]
    with sql.engine.begin() as connection:
        connection.execute(insert(tables.products).values(sku="LAMP", version=1, sequence=0))
        connection.execute(insert(tables.batches), [vars(batch) for batch in known])

    asked = select(tables.batches.c.batchref, stock.is_good(today), stock.is_overdue(today))
    with snapshot(sql.engine) as connection:
        said = {row[0]: (bool(row[1]), bool(row[2])) for row in connection.execute(asked)}

    assert said == {
        batch.batchref: (batch.is_good(today), batch.is_overdue(today)) for batch in known
    }


def test_stock_that_serves_no_line_counts_as_unusable(stocked: Storage) -> None:
    do(
        stocked,
        [
            BlockBatch("b-2", "recall"),
            CreateBatch("b-5", "BED", 3, best_before=date(2030, 1, 9)),
            CreateProduct("EASEL"),
        ],
        50,
    )

    found = {each.sku: each for each in listed(stocked)}
    assert found["EASEL"] == Listed("EASEL")
    assert (found["BED"].available, found["BED"].on_hand, found["BED"].unusable) == (5, 0, 10)
