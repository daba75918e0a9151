"""Events of other systems: which are valid, and which command each becomes."""

import json
from collections.abc import Callable
from datetime import date
from typing import Any
from uuid import UUID, uuid5

import pytest
from kombu.message import Message as Delivered

from allocation.contract import inbound_events, registry
from allocation.contract.inbound_events import Inadmissible, read
from allocation.domain.commands import (
    ChangeBatchEta,
    ChangeBatchQuantity,
    Command,
    Dispatch,
    WriteOff,
)
from allocation.messaging.dead_letters import LARGEST_BODY
from allocation.service_layer.unit_of_work import Message

QUANTITY = "batch.quantity_changed.v1"
JSON = {"content_type": "application/cloudevents+json"}

COMMANDS: dict[str, Command] = {
    QUANTITY: ChangeBatchQuantity("shipment-77", 5),
    "shipment.delayed.v1": ChangeBatchEta("shipment-77", date(2030, 2, 15)),
    "shipment.arrived.v1": ChangeBatchEta("shipment-77"),
    "stock.damaged.v1": WriteOff("shipment-77", 2, "water damage"),
    "warehouse.dispatched.v1": Dispatch(
        "order-1", "RED-CHAIR", "shipment-77", qty=2, reported=True
    ),
}


def event(kind: str = QUANTITY, **changes: object) -> dict[str, Any]:
    """The contract's example, with other fields."""
    return registry.example(kind) | changes


def quantity(batchref: object, qty: object) -> dict[str, Any]:
    """An event with these data."""
    return event(data={"batchref": batchref, "qty": qty})


def dispatched(**data: object) -> dict[str, Any]:
    """The example of goods that have left, with other data."""
    example = event("warehouse.dispatched.v1")
    return example | {"data": example["data"] | data}


def delivered(body: Any, **properties: Any) -> Delivered:
    """The message that brings an event, or raw bytes."""
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return Delivered(raw, **JSON | properties)


def without(name: str) -> dict[str, Any]:
    return {field: value for field, value in event().items() if field != name}


PICKLE = b"\x80\x04\x95\x1b\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94\x8c\x06system\x94\x93\x94."

# By name: body, properties, and what becomes the dead letter's reason and a part of its error.
REFUSED: dict[str, tuple[Any, dict[str, Any], str, str]] = {
    "bad bytes": (b"\xff\x00{", {}, "unreadable", "the body is not JSON"),
    "no bytes": (b"", {}, "unreadable", "the body is not JSON"),
    "half an event": (b'{"specversion": ', {}, "unreadable", "the body is not JSON"),
    "UTF-16": (json.dumps(event()).encode("utf-16"), {}, "unreadable", "the body is not JSON"),
    "not a number": (quantity("b", float("nan")), {}, "unreadable", "NaN is not JSON"),
    "deep": (b'{"data": ' + b"[" * 100_000, {}, "unreadable", "the body is not JSON"),
    "large": (b" " * (LARGEST_BODY + 1), {}, "unreadable", "262145 bytes, more than"),
    "long number": (b'{"id": ' + b"9" * 10_000 + b"}", {}, "unreadable", "the body is not JSON"),
    "a list": ([event()], {}, "unreadable", "not a JSON object"),
    "pickle": (
        PICKLE,
        {"content_type": "application/x-python-serialize", "content_encoding": "binary"},
        "unreadable",
        "the content type is 'application/x-python-serialize'",
    ),
    "no content type": (event(), {"content_type": None}, "unreadable", "the content type is None"),
    "plain text": (event(), {"content_type": "text/plain"}, "unreadable", "'text/plain'"),
    "other charset": (
        event(),
        {"content_type": "application/cloudevents+json; charset=latin-1"},
        "unreadable",
        "charset=latin-1",
    ),
    "gzip": (event(), {"content_encoding": "gzip"}, "unreadable", "the content encoding is 'gzip'"),
    "idna": (event(), {"content_encoding": "idna"}, "unreadable", "the content encoding is 'idna'"),
    "compressed": (
        event(),
        {"headers": {"compression": "application/x-gzip"}},
        "unreadable",
        "the body is compressed",
    ),
    "plain JSON": ({"batchref": "b", "qty": 1}, {}, "unreadable", "specversion is missing"),
    "other version": (event(specversion="0.3"), {}, "unreadable", "specversion is '0.3', not 1.0"),
    "no id": (without("id"), {}, "unreadable", "the field id is missing"),
    "empty id": (event(id=""), {}, "unreadable", "the field id is ''"),
    "id of a number": (event(id=7), {}, "unreadable", "the field id is 7"),
    "long id": (event(id="x" * 256), {}, "unreadable", "the field id is 'xxx"),
    "id with a null": (event(id="\x00"), {}, "unreadable", "the field id is '\\x00'"),
    "id that is no text": (event(id="\ud800"), {}, "unreadable", "the field id is '\\ud800'"),
    "no source": (without("source"), {}, "unreadable", "the field source is missing"),
    "no type": (without("type"), {}, "unreadable", "the field type is missing"),
    "no data": (without("data"), {}, "unreadable", "the field data is missing"),
    "data as text": (event(data="{}"), {}, "unreadable", "the field data is '{}'"),
    "unknown type": (
        event() | {"type": "batch.painted.v1"},
        {},
        "unknown type",
        "the type 'batch.painted.v1' is unknown",
    ),
    "later version": (
        event() | {"type": "batch.quantity_changed.v2"},
        {},
        "unknown type",
        "batch.quantity_changed.v2",
    ),
    "our own event": (
        registry.example("allocation.allocated.v1"),
        {},
        "unknown type",
        "allocation.allocated.v1",
    ),
    "missing field": (event(data={"batchref": "b"}), {}, "malformed", "the field qty: is missing"),
    "negative": (quantity("b", -1), {}, "malformed", "the field qty: the value is less than"),
    "text for a number": (quantity("b", "5"), {}, "malformed", "the field qty: the value is not"),
    "null": (quantity("a\x00b", 5), {}, "malformed", "the field batchref: has a control character"),
    "delayed until when": (
        event("shipment.delayed.v1", data={"batchref": "b"}),
        {},
        "malformed",
        "the field eta: is missing",
    ),
    "delayed for ever": (
        event("shipment.delayed.v1", data={"batchref": "b", "eta": None}),
        {},
        "malformed",
        "the field eta: the value is not",
    ),
    "no day": (
        event("shipment.delayed.v1", data={"batchref": "b", "eta": "2030-02-30"}),
        {},
        "malformed",
        "the field eta: the value is not",
    ),
    "nothing dispatched": (dispatched(qty=0), {}, "malformed", "the field qty: the value is less"),
    "half a piece dispatched": (
        dispatched(qty=1.5),
        {},
        "malformed",
        "the field qty: the value is not",
    ),
    "surrogate": (quantity("\ud800", 5), {}, "malformed", "the field batchref: has a character"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_no_event_of_the_contract_is_refused_with_the_reason(name: str) -> None:
    body, properties, reason, error = REFUSED[name]

    with pytest.raises(Inadmissible) as refused:
        read(delivered(body, **properties))

    assert refused.value.reason == reason
    assert error in str(refused.value)


@pytest.mark.parametrize("kind", inbound_events.TYPES)
def test_each_types_example_is_a_command(kind: str) -> None:
    assert read(delivered(event(kind))).command == COMMANDS[kind]


READ: dict[str, Callable[[], Delivered]] = {
    "as JSON": lambda: delivered(event(), content_type="application/json"),
    "with a charset": lambda: delivered(
        event(), content_type="Application/CloudEvents+JSON; charset=UTF-8"
    ),
    "with an encoding": lambda: delivered(event(), content_encoding="UTF-8"),
    "as a dead letter": lambda: delivered(event(), content_encoding="binary"),
    "with unknown attributes": lambda: delivered(event(partition="\ud800", dataschema=None)),
    "with unknown data": lambda: delivered(
        quantity("shipment-77", 5) | {"data": event()["data"] | {"by": {"who": "\ud800"}}}
    ),
    "with a point": lambda: delivered(quantity("shipment-77", 5.0)),
    "without what is not needed": lambda: delivered(without("time")),
}


@pytest.mark.parametrize("name", READ)
def test_what_senders_are_free_to_do_changes_nothing(name: str) -> None:
    """Other systems evolve: what is not known is ignored."""
    assert read(READ[name]()) == read(delivered(event()))


def test_the_id_follows_from_source_and_id_alone() -> None:
    """So a repeat is known, and so is one that says something else."""
    first = read(delivered(event()))

    assert first.id == uuid5(
        UUID("5f0f3c0e-6a4e-4f5c-9d0e-0d8f6c1b7a52"),
        '["https://wms.example.com/site-1", "count-2029-12-01-17"]',
    )
    assert read(delivered(quantity("other", 1))).id == first.id
    assert read(delivered(event(id="other"))).id != first.id
    assert read(delivered(event(source="urn:other"))).id != first.id
    assert (first.correlation_id, first.causation_id) == (first.id, None)


def test_a_correlation_id_is_carried_on_when_it_is_one_of_ours() -> None:
    """Ours are UUIDs; any other text is ignored."""
    given = UUID("0c9ad1a4-5a52-4d4e-8b0e-3f4f5a1f7e10")

    carried = read(delivered(event(correlationid=str(given))))
    ignored = [read(delivered(event(correlationid=other))) for other in ("order 7", 7, None)]

    assert carried == Message(ignored[0].id, COMMANDS[QUANTITY], correlation_id=given)
    assert [message.correlation_id for message in ignored] == [carried.id] * 3


def test_an_event_is_a_part_of_the_trace_that_it_names() -> None:
    """What names none is taken all the same."""
    given = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    taken = [read(delivered(event(traceparent=each))) for each in (given, "rubbish", 7, None)]

    assert [message.traceparent for message in taken] == [given, None, None, None]


def test_what_arrived_has_no_other_day_whatever_else_is_said() -> None:
    """A type's fields are its own: to another type's it pays no heed."""
    told = event("shipment.arrived.v1", data={"batchref": "b1", "eta": "2030-02-15"})

    assert read(delivered(told)).command == ChangeBatchEta("b1")


@pytest.mark.parametrize("reported", [False, None, "no", 7])
def test_goods_that_have_left_are_always_reported(reported: object) -> None:
    told = dispatched(reported=reported)

    assert read(delivered(told)).command == COMMANDS["warehouse.dispatched.v1"]


def test_goods_that_have_left_are_all_of_the_line_that_is_there_unless_told_otherwise() -> None:
    told = event("warehouse.dispatched.v1", data={"orderid": "order-1", "sku": "RED-CHAIR"})

    all_of_them = Dispatch("order-1", "RED-CHAIR", reported=True)
    assert read(delivered(told)).command == all_of_them
    told["data"] |= {"batchref": None, "qty": None}
    assert read(delivered(told)).command == all_of_them
