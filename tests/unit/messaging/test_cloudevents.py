import json
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest
from kombu.message import Message

from allocation.messaging import cloudevents
from allocation.messaging.cloudevents import Envelope, Unreadable, from_json, read, read_strictly
from allocation.messaging.dead_letters import LARGEST_BODY

ID = UUID("5f0f3c0e-6a4e-4f5c-9d0e-0d8f6c1b7a52")
TRACEPARENT = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


def event(**changes: object) -> dict[str, Any]:
    built = cloudevents.build(
        id=ID,
        source="shop",
        type="order.paid.v1",
        subject="order-1",
        time="2030-01-31T12:00:00+00:00",
        data={"total": 5},
        sequence=3,
        causationtype="shop.pay",
        correlationid=str(ID),
    )
    return built | changes


def without(name: str) -> dict[str, Any]:
    return {field: value for field, value in event().items() if field != name}


def tolerantly(body: Any, content_type: str | None = "application/json") -> object:
    return read(body if isinstance(body, bytes) else json.dumps(body).encode(), content_type)


def strictly(body: Any, content_type: str | None = "application/json", **properties: Any) -> object:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return read_strictly(Message(raw, content_type=content_type, **properties))


BOTH = pytest.mark.parametrize("reading", [tolerantly, strictly])


def test_an_event_is_built_as_structured_json_with_its_extensions() -> None:
    assert event() == {
        "specversion": "1.0",
        "id": str(ID),
        "source": "shop",
        "type": "order.paid.v1",
        "subject": "order-1",
        "time": "2030-01-31T12:00:00+00:00",
        "datacontenttype": "application/json",
        "sequence": 3,
        "causationtype": "shop.pay",
        "correlationid": str(ID),
        "data": {"total": 5},
    }


def test_what_was_built_can_be_read_by_both() -> None:
    body = json.dumps(event()).encode()

    envelope = read(body, cloudevents.CONTENT_TYPE)

    assert (envelope.id, envelope.type, envelope.subject) == (ID, "order.paid.v1", "order-1")
    assert (envelope.sequence, envelope.causationtype) == (3, "shop.pay")
    assert (envelope.data, envelope.body) == ({"total": 5}, event())
    assert read_strictly(Message(body, content_type=cloudevents.CONTENT_TYPE)) == event()


@BOTH
@pytest.mark.parametrize(
    ("body", "error"),
    [
        (b"", "the body is not JSON"),
        (b"\xff\x00{", "the body is not JSON"),
        (b"{", "the body is not JSON"),
        (b"[" * 100_000, "the body is not JSON"),
        (b'{"id": ' + b"9" * 10_000 + b"}", "the body is not JSON"),
        (b"[]", "not a JSON object"),
        (b"{}", "the field specversion is missing"),
        (event(specversion="0.3"), "the field specversion is '0.3'"),
        (without("id"), "the field id is missing"),
        (event(id=""), "the field id is ''"),
        (event(id=7), "the field id is 7"),
        (event(id="x" * 256), "the field id is 'xxx"),
        (event(id="\x00"), r"the field id is '\\x00'"),
        (event(id="\ud800"), r"the field id is '\\ud800'"),
        (without("type"), "the field type is missing"),
        (event(type=None), "the field type is None"),
        (without("data"), "the field data is missing"),
        (event(data=[]), r"the field data is \[\]"),
    ],
)
def test_what_is_no_event_is_unreadable_and_the_field_is_named(
    reading: Callable[[Any], object], body: Any, error: str
) -> None:
    with pytest.raises(Unreadable, match=error):
        reading(body)


@BOTH
@pytest.mark.parametrize("content_type", ["application/x-python-serialize", "text/plain", "", None])
def test_another_content_type_is_unreadable(
    reading: Callable[..., object], content_type: str | None
) -> None:
    with pytest.raises(Unreadable, match="the content type is"):
        reading(event(), content_type)


@BOTH
@pytest.mark.parametrize(
    "content_type",
    ["application/json", "Application/CloudEvents+JSON", "application/json ; charset=UTF-8"],
)
def test_a_content_type_may_be_written_in_any_way_that_is_allowed(
    reading: Callable[..., object], content_type: str
) -> None:
    assert reading(event(), content_type)


@pytest.mark.parametrize(
    "changes",
    [
        {"id": "x"},
        {"type": "order.paid"},
        {"type": "Order Paid.v1"},
        {"causationtype": None},
        {"subject": 5},
        {"subject": ""},
        {"subject": "LAMP\n"},
        {"subject": "s" * 256},
        {"sequence": 0},
        {"sequence": "1"},
        {"sequence": True},
        {"sequence": 1.5},
        {"sequence": 2**63},
    ],
)
def test_an_event_of_a_sequence_needs_more(changes: dict[str, object]) -> None:
    with pytest.raises(Unreadable, match=f"the field {next(iter(changes))}"):
        from_json(event(**changes))


@pytest.mark.parametrize("field", ["subject", "sequence", "causationtype"])
def test_a_field_that_an_event_of_a_sequence_lacks_is_named(field: str) -> None:
    with pytest.raises(Unreadable, match=f"the field {field}"):
        from_json(without(field))


@pytest.mark.parametrize(
    ("body", "properties", "error"),
    [
        (event(), {"content_type": "application/json; charset=latin-1"}, "charset=latin-1"),
        (event(), {"content_encoding": "gzip"}, "the content encoding is 'gzip'"),
        (event(), {"headers": {"compression": "application/x-gzip"}}, "the body is compressed"),
        (json.dumps(event()).encode("utf-16"), {}, "the body is not JSON"),
        (event(data={"total": float("nan")}), {}, "NaN is not JSON"),
        (b" " * (LARGEST_BODY + 1), {}, "262145 bytes, more than 262144"),
        (without("source"), {}, "the field source is missing"),
    ],
)
def test_the_strict_reader_refuses_more(body: Any, properties: dict[str, Any], error: str) -> None:
    with pytest.raises(Unreadable, match=error):
        strictly(body, **properties)


@pytest.mark.parametrize(
    ("changes", "trace_id"),
    [
        ({"traceparent": TRACEPARENT}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"traceparent": TRACEPARENT, "correlationid": 5}, "4bf92f3577b34da6a3ce929d0e0e4736"),
        ({"traceparent": "nonsense"}, ID.hex),
        ({"correlationid": "nonsense"}, None),
    ],
)
def test_the_trace_is_that_of_the_traceparent_or_the_correlation(
    changes: dict[str, object], trace_id: str | None
) -> None:
    assert from_json(event(**changes)).trace_id == trace_id


def test_an_event_is_parsed_once_by_each_parser() -> None:
    calls: list[str] = []

    def total(event: Envelope) -> int:
        calls.append("total")
        return int(event.data["total"])

    def nothing(_event: Envelope) -> None:
        calls.append("nothing")

    envelope = from_json(event())

    assert [envelope.parsed(total), envelope.parsed(total)] == [5, 5]
    assert [envelope.parsed(nothing), envelope.parsed(nothing)] == [None, None]
    assert calls == ["total", "nothing"]
    assert envelope == from_json(event())
