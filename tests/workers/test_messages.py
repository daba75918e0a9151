"""What the subscribers read of the contract's events."""

import json
from datetime import date
from typing import Any

import pytest

from allocation.contract import registry
from allocation.messaging.cloudevents import Unreadable, from_json, read
from tests.workers.conftest import EVENTS, envelope, event
from workers.notification import messages as notification
from workers.warehouse import messages as warehouse

READ: dict[str, tuple[object, object]] = {
    "allocation.allocated.v1": (
        warehouse.Allocated("order-1", "RED-CHAIR", 3, "shipment-77", eta=date(2030, 1, 31)),
        notification.Allocated(
            "order-1", "RED-CHAIR", 3, "shipment-77", notification.Day(date(2030, 1, 31))
        ),
    ),
    "allocation.batch_created.v1": (None, None),
    "allocation.batch_eta_changed.v1": (None, None),
    "allocation.batch_quantity_changed.v1": (None, None),
    "allocation.deallocated.v1": (
        warehouse.Deallocated("order-1", "RED-CHAIR", 3, "shipment-77"),
        notification.Deallocated("order-1", "RED-CHAIR", 3, "shipment-77", cancelled=False),
    ),
    "allocation.dispatched.v1": (
        warehouse.Dispatched("order-1", "RED-CHAIR", 3, "shipment-77"),
        notification.Dispatched("order-1", "RED-CHAIR"),
    ),
    "allocation.reservation_released.v1": (
        None,
        notification.Released("order-1", "RED-CHAIR", 3, moved=False),
    ),
    "allocation.reserved.v1": (
        None,
        notification.Reserved("order-1", "RED-CHAIR", 3, "shipment-77"),
    ),
    "allocation.strategy_chosen.v1": (None, None),
    "allocation.out_of_stock.v1": (None, notification.OutOfStock("order-1", "RED-CHAIR", 3)),
    "allocation.promise_changed.v1": (
        warehouse.PromiseChanged(
            *("order-1", "RED-CHAIR", 3, "shipment-77"), eta=date(2030, 2, 15)
        ),
        notification.PromiseChanged(
            *("order-1", "RED-CHAIR", 3, "shipment-77"),
            old=notification.Day(date(2030, 1, 31)),
            new=notification.Day(date(2030, 2, 15)),
        ),
    ),
    "allocation.written_off.v1": (None, None),
    "allocation.batch_blocked.v1": (
        None,
        notification.Blocked("shipment-77", "RED-CHAIR", 40, "quality hold"),
    ),
    "allocation.batch_unblocked.v1": (None, None),
    "allocation.batch_expired.v1": (
        None,
        notification.Expired("shipment-77", "RED-CHAIR", 12, date(2030, 6, 30)),
    ),
    "allocation.batch_overdue.v1": (
        None,
        notification.Overdue("shipment-77", "RED-CHAIR", date(2029, 12, 1)),
    ),
    "allocation.best_before_changed.v1": (None, None),
    "allocation.line_quantity_changed.v1": (
        None,
        notification.Resized("order-1", "RED-CHAIR", 3, 2),
    ),
    "allocation.priority_changed.v1": (None, None),
    "allocation.product_created.v1": (None, None),
    "allocation.received.v1": (None, None),
    "allocation.returned.v1": (None, None),
}


@pytest.mark.parametrize("name", EVENTS)
def test_every_example_of_the_contract_is_understood(name: str) -> None:
    """By both subscribers, from the bytes on."""
    body = json.dumps(registry.example(name)).encode()

    read_event = read(body, "application/cloudevents+json; charset=utf-8")

    assert (warehouse.parse(read_event), notification.parse(read_event)) == READ[name]


@pytest.mark.parametrize("name", EVENTS)
def test_fields_that_nobody_knows_are_ignored(name: str) -> None:
    body = registry.example(name) | {"colour": "red"}
    body["data"] = body["data"] | {"colour": "red"}

    read_event = from_json(body)

    assert (warehouse.parse(read_event), notification.parse(read_event)) == READ[name]


@pytest.mark.parametrize("cause", ["deallocate", "cancel_order"])
def test_a_line_that_its_caller_gave_up_is_told_from_one_that_moves(cause: str) -> None:
    """By the name of the command that caused it."""
    given_up = notification.parse(envelope("deallocated", 1, cause=cause))

    assert given_up == notification.Deallocated("order-1", "LAMP", 3, "shipment-77", cancelled=True)


@pytest.mark.parametrize(
    ("kind", "cause"),
    [
        ("allocated", "confirm"),
        ("reserved", "extend"),
        *[
            (kind, "change_line_quantity")
            for kind in ("allocated", "reserved", "deallocated", "reservation_released")
        ],
    ],
)
def test_a_promise_that_is_told_again_of_a_held_line_is_no_new_one(kind: str, cause: str) -> None:
    """It says that the line is kept, or kept for longer."""
    assert notification.parse(envelope(kind, 1, cause)) is None


@pytest.mark.parametrize("value", [-1, "1", 1.5, True, 2**31])
@pytest.mark.parametrize("field", ["part", "waiting"])
def test_a_number_of_another_shape_is_unreadable_and_named(field: str, value: object) -> None:
    with pytest.raises(Unreadable, match=f"data.{field}"):
        notification.parse(envelope("allocated", 1, "allocate", **{field: value}))


def test_numbers_that_are_0_may_be_absent() -> None:
    """A line that one batch serves whole has neither."""
    absent, zero = envelope("allocated", 1), envelope("allocated", 1, part=0, waiting=0)

    assert notification.parse(absent) == notification.parse(zero)


def test_an_expired_or_blocked_batch_may_have_no_pieces() -> None:
    kinds = ("batch_expired", "batch_blocked")
    messages: Any = [notification.parse(envelope(kind, 1, qty=0)) for kind in kinds]

    assert [message.qty for message in messages] == [0, 0]


def test_returned_goods_that_can_be_used_are_stock_again_and_others_are_not() -> None:
    broken = envelope("returned", 1, "return_goods", usable=False, reason=None)

    assert notification.parse(envelope("returned", 1, "return_goods", usable=True)) is None
    assert notification.parse(broken) == notification.Returned(
        "returns-12", "LAMP", "order-1", 2, None
    )


def test_a_line_that_was_still_waiting_names_no_batch() -> None:
    """Nothing was promised, so nothing is cancelled."""
    waiting = warehouse.parse(envelope("deallocated", 1, batchref=None))

    assert waiting == warehouse.Deallocated("order-1", "LAMP", 3, None)


@pytest.mark.parametrize("parse", [warehouse.parse, notification.parse])
@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("orderid", None),
        ("orderid", ""),
        ("orderid", 5),
        ("orderid", "\x00"),
        ("orderid", "order\n1"),
        ("orderid", "\x85"),
        ("orderid", "\ud800"),
        ("orderid", "o" * 256),
        ("qty", 0),
        ("qty", "3"),
        ("qty", True),
        ("batchref", []),
    ],
)
def test_a_needed_field_of_another_shape_is_unreadable_and_named(
    parse: Any, field: str, value: object
) -> None:
    body = event("allocated", 1)
    body["data"][field] = value

    with pytest.raises(Unreadable, match=f"data.{field}"):
        parse(from_json(body))


@pytest.mark.parametrize("value", ["", "20300131", "2030-02-30", "2030-1-31", 5, False, []])
def test_a_day_of_another_shape_is_unreadable_and_named(value: object) -> None:
    for kind, field in [("allocated", "eta"), ("promise_changed", "old_eta")]:
        body = event(kind, 1)
        body["data"][field] = value

        with pytest.raises(Unreadable, match=f"data.{field}"):
            notification.parse(from_json(body))


def test_an_older_allocation_told_no_day() -> None:
    """That is another thing than stock on the shelf."""
    body = event("allocated", 1)
    del body["data"]["eta"]

    on_the_shelf = notification.parse(envelope("allocated", 1, eta=None))

    assert on_the_shelf == notification.Allocated(
        "order-1", "LAMP", 3, "shipment-77", notification.Day(None)
    )
    assert notification.parse(from_json(body)) == notification.Allocated(
        "order-1", "LAMP", 3, "shipment-77"
    )


NEEDED: list[tuple[Any, str, tuple[str, ...]]] = [
    (warehouse.parse, "allocated", ("orderid", "sku", "qty", "batchref")),
    (warehouse.parse, "deallocated", ("orderid", "sku")),
    (warehouse.parse, "dispatched", ("orderid", "sku", "qty", "batchref")),
    (warehouse.parse, "promise_changed", ("orderid", "sku", "qty", "batchref", "new_eta")),
    (notification.parse, "allocated", ("orderid", "sku", "qty", "batchref")),
    (notification.parse, "deallocated", ("orderid", "sku", "qty")),
    (notification.parse, "dispatched", ("orderid", "sku")),
    (notification.parse, "line_quantity_changed", ("orderid", "sku", "old_qty", "qty")),
    (notification.parse, "batch_expired", ("batchref", "sku", "best_before")),
    (notification.parse, "batch_overdue", ("batchref", "sku", "eta")),
    (notification.parse, "batch_blocked", ("batchref", "sku", "reason")),
    (notification.parse, "reserved", ("orderid", "sku", "qty", "batchref")),
    (notification.parse, "reservation_released", ("orderid", "sku", "qty")),
    (notification.parse, "out_of_stock", ("orderid", "sku", "qty")),
    (
        notification.parse,
        "promise_changed",
        ("orderid", "sku", "qty", "batchref", "old_eta", "new_eta"),
    ),
]


@pytest.mark.parametrize(
    ("parse", "kind", "field"),
    [(parse, kind, field) for parse, kind, fields in NEEDED for field in fields],
)
def test_a_needed_field_that_is_missing_is_named(parse: Any, kind: str, field: str) -> None:
    body = event(kind, 1)
    del body["data"][field]

    with pytest.raises(Unreadable, match=f"data.{field}"):
        parse(from_json(body))


@pytest.mark.parametrize("parse", [warehouse.parse, notification.parse])
def test_a_version_that_is_not_known_is_unreadable(parse: Any) -> None:
    """It is kept in the dead-letter queue until somebody can read it."""
    newer = from_json(event("allocated", 1) | {"type": "allocation.allocated.v2"})

    with pytest.raises(Unreadable, match="version"):
        parse(newer)


@pytest.mark.parametrize("parse", [warehouse.parse, notification.parse])
def test_an_event_that_names_two_skus_is_unreadable(parse: Any) -> None:
    """Its number would be counted on one, and its effect made on the other."""
    body = event("allocated", 1) | {"subject": "CHAIR"}

    with pytest.raises(Unreadable, match=r"data\.sku"):
        parse(from_json(body))


@pytest.mark.parametrize("parse", [warehouse.parse, notification.parse])
def test_an_event_of_another_service_is_unreadable(parse: Any) -> None:
    with pytest.raises(Unreadable, match="the field type"):
        parse(from_json(event("allocated", 1) | {"type": "shop.allocated.v1"}))


@pytest.mark.parametrize("parse", [warehouse.parse, notification.parse])
def test_a_version_that_is_not_known_of_what_does_not_concern_it_is_ignored(parse: Any) -> None:
    """It keeps the count, and needs nobody's eyes."""
    newer = from_json(event("batch_created", 1) | {"type": "allocation.batch_created.v2"})

    assert parse(newer) is None
