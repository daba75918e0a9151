"""Orders of several lines over several skus."""

from datetime import UTC, datetime
from typing import Any

import pytest

from allocation.contract import registry
from allocation.domain.commands import (
    Allocate,
    AllocateOrder,
    ChangeBatchQuantity,
    Confirm,
    CreateBatch,
    Extend,
    Malformed,
    Release,
    Reserve,
    Wanted,
)
from allocation.domain.outcomes import Outcome, Refused, Succeeded
from allocation.service_layer.execution import execute, execute_batch
from allocation.service_layer.handlers import HANDLERS
from tests.storage.conftest import Storage, memory_storage, message

NOON = datetime(2030, 1, 1, 12, tzinfo=UTC)
STOCK = [CreateBatch("chairs", "CHAIR", 5), CreateBatch("lamps", "LAMP", 5)]


@pytest.fixture
def storage() -> Storage:
    return memory_storage(now=lambda: NOON)


def decided(storage: Storage, *commands: Any) -> list[Outcome]:
    """The outcomes of the commands, one after another on stock of two skus."""
    messages = [message(each, n) for n, each in enumerate([*STOCK, *commands], start=1)]
    return [execute(each, storage.unit_of_work()) for each in messages][len(STOCK) :]


def order(*lines: tuple[str, int], **options: Any) -> AllocateOrder:
    return AllocateOrder("o1", tuple(Wanted(sku, qty) for sku, qty in lines), **options)


def told_of(storage: Storage, orderid: str = "o1") -> list[tuple[str, str]]:
    """The names and skus of the events about an order."""
    return [
        (name.split(".")[1], data["sku"])
        for name, data in storage.outbox()
        if data.get("orderid") == orderid and "sequence" in data
    ]


def test_each_line_of_an_order_is_decided_for_itself(storage: Storage) -> None:
    [outcome] = decided(storage, order(("LAMP", 5), ("CHAIR", 6), ("SOFA", 1)))

    assert outcome == Succeeded(
        status="decided",
        lines=[
            {"sku": "CHAIR", "qty": 6, "status": "waiting", "batchref": None, "eta": None},
            {"sku": "LAMP", "qty": 5, "status": "allocated", "batchref": "lamps", "eta": None},
            {"sku": "SOFA", "qty": 1, "status": "rejected", "reason": "unknown sku"},
        ],
    )
    assert told_of(storage) == [("out_of_stock", "CHAIR"), ("allocated", "LAMP")]


def test_all_or_nothing_takes_all(storage: Storage) -> None:
    [outcome] = decided(storage, order(("LAMP", 5), ("CHAIR", 5), all_or_nothing=True))

    assert isinstance(outcome, Succeeded)
    assert told_of(storage) == [("allocated", "CHAIR"), ("allocated", "LAMP")]


@pytest.mark.parametrize(
    ("lines", "reason", "sku"),
    [
        ((("CHAIR", 5), ("LAMP", 6)), "not all in stock", "LAMP"),
        ((("CHAIR", 5), ("SOFA", 1)), "unknown sku", "SOFA"),
    ],
)
def test_all_or_nothing_takes_nothing(
    storage: Storage, lines: tuple[tuple[str, int], ...], reason: str, sku: str
) -> None:
    [outcome] = decided(storage, order(*lines, all_or_nothing=True))

    assert isinstance(outcome, Refused)
    assert (outcome.reason, outcome.facts["sku"]) == (reason, sku)
    assert told_of(storage) == []


def test_all_or_nothing_does_not_overtake_who_waits(storage: Storage) -> None:
    decided(storage, Allocate("older", "LAMP", 7))
    bigger = [ChangeBatchQuantity("lamps", 7), order(("LAMP", 1), all_or_nothing=True)]

    outcomes = execute_batch(
        [message(each, n) for n, each in enumerate(bigger, start=50)], storage.unit_of_work()
    )

    assert isinstance(outcomes[1], Refused)
    assert ("allocated", "LAMP") in told_of(storage, "older")


def test_an_order_that_is_held_is_confirmed_as_one(storage: Storage) -> None:
    held = order(("LAMP", 1), ("CHAIR", 1), ttl=60, all_or_nothing=True, customer="customer-7")

    outcomes = decided(storage, held, Confirm("o1"))

    assert outcomes[1] == Succeeded(status="confirmed", lines=2, waiting=0)
    ends = [body["expires_at"] for name, body in storage.outbox() if name == "allocation.expire"]
    assert ends == ["2030-01-01T12:01:00+00:00"]


def test_an_order_may_be_repeated_line_by_line(storage: Storage) -> None:
    lines = (("LAMP", 3), ("CHAIR", 3))

    outcomes = decided(storage, order(*lines), order(*lines, all_or_nothing=True))

    assert outcomes[0] == outcomes[1]
    assert told_of(storage) == [("allocated", "CHAIR"), ("allocated", "LAMP")]


def test_all_or_nothing_refuses_a_line_that_is_there_otherwise(storage: Storage) -> None:
    """With another quantity, held, or waiting."""
    outcomes = decided(
        storage,
        Allocate("o1", "LAMP", 3),
        Reserve("o1", "CHAIR", 3, 60),
        order(("LAMP", 4), all_or_nothing=True),
        order(("CHAIR", 3), all_or_nothing=True),
        Allocate("o2", "CHAIR", 3),
        AllocateOrder("o2", (Wanted("CHAIR", 3),), all_or_nothing=True),
    )

    reasons = [each.reason for each in outcomes if isinstance(each, Refused)]
    assert reasons == ["quantity differs", "reserved", "not all in stock"]


def test_an_order_names_each_sku_once(storage: Storage) -> None:
    [outcome] = decided(storage, order(("LAMP", 1), ("LAMP", 2)))

    assert outcome == Refused("sku twice", field="lines", orderid="o1")


@pytest.mark.parametrize("sold_first", [True, False])
def test_what_is_held_gives_way_before_what_is_sold(storage: Storage, sold_first: bool) -> None:
    lines: list[Any] = [Allocate("sold", "LAMP", 2), Reserve("held", "LAMP", 2, 60)]

    decided(storage, *(lines if sold_first else lines[::-1]), ChangeBatchQuantity("lamps", 3))

    assert told_of(storage, "held")[-1] == ("reservation_released", "LAMP")
    assert told_of(storage, "sold") == [("allocated", "LAMP")]


def test_an_order_of_which_a_line_waits_is_not_confirmed_but_waits(storage: Storage) -> None:
    outcomes = decided(
        storage, Reserve("o1", "LAMP", 2, 60), Reserve("o1", "CHAIR", 6, 60), Confirm("o1")
    )

    assert outcomes[-1] == Succeeded(status="waiting", lines=1, waiting=1)
    assert told_of(storage)[-1] == ("allocated", "LAMP")


def test_a_line_that_waits_in_part_counts_as_one_that_waits(storage: Storage) -> None:
    outcomes = decided(storage, Reserve("o1", "LAMP", 6, 60, split=True), Confirm("o1"))

    assert outcomes[-1] == Succeeded(status="waiting", lines=0, waiting=1)


def test_all_or_nothing_confirms_no_order_of_which_a_line_waits(storage: Storage) -> None:
    whole = Confirm("o1", all_or_nothing=True)
    reserved = Reserve("o1", "LAMP", 2, 60), Reserve("o1", "CHAIR", 6, 60)

    outcomes = decided(storage, *reserved, whole, Release("o1"))

    assert outcomes[2:] == [
        Refused("not all held", field="orderid", orderid="o1", sku="CHAIR"),
        Succeeded(status="released", lines=2),
    ]
    assert told_of(storage) == [
        ("reserved", "LAMP"),
        ("out_of_stock", "CHAIR"),
        ("reservation_released", "CHAIR"),
        ("reservation_released", "LAMP"),
    ]


def test_all_or_nothing_confirms_an_order_that_holds_all(storage: Storage) -> None:
    outcomes = decided(storage, Reserve("o1", "LAMP", 2, 60), Confirm("o1", all_or_nothing=True))

    assert outcomes[-1] == Succeeded(status="confirmed", lines=1, waiting=0)


def test_extending_never_ends_a_hold_sooner(storage: Storage) -> None:
    outcomes = decided(
        storage, Reserve("o1", "LAMP", 2, 900), Extend("o1", 1), Extend("o1", 1800), Extend("o1", 9)
    )

    assert outcomes[1:] == [
        Succeeded(status="unchanged", lines=1, waiting=0, expires_at="2030-01-01T12:15:00+00:00"),
        Succeeded(status="extended", lines=1, waiting=0, expires_at="2030-01-01T12:30:00+00:00"),
        Refused("extended already", field="orderid", orderid="o1", sku="LAMP"),
    ]


def test_an_extended_order_is_said_to_end_when_its_first_hold_does(storage: Storage) -> None:
    outcomes = decided(
        storage, Reserve("o1", "LAMP", 2, 60), Reserve("o1", "CHAIR", 6, 900), Extend("o1", 600)
    )

    assert outcomes[-1] == Succeeded(
        status="extended", lines=1, waiting=1, expires_at="2030-01-01T12:10:00+00:00"
    )
    ends = [body["expires_at"] for name, body in storage.outbox() if name == "allocation.expire"]
    assert ends[2:] == ["2030-01-01T12:10:00+00:00"]


def test_a_repeated_line_is_answered_as_it_stands_and_not_as_it_was_asked_again(
    storage: Storage,
) -> None:
    again = Allocate("o1", "LAMP", 2, "bob", split=True)

    outcomes = decided(storage, Allocate("o1", "LAMP", 2, "ann"), again)

    assert outcomes[1] == Succeeded(
        status="allocated", batchref="lamps", eta=None, customer="ann", split=False
    )


def test_each_command_of_the_contract_has_a_handler() -> None:
    assert HANDLERS.keys() == {*(each.kind for each in registry.COMMANDS.values()), Malformed}
