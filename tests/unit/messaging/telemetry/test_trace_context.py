"""The W3C trace context: which values are valid."""

from uuid import UUID

import pytest

from allocation.messaging.telemetry import trace_context

TRACE = "0af7651916cd43dd8448eb211c80319c"
SPAN = "b7ad6b7169203331"
GIVEN = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        (GIVEN, GIVEN),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"cc-{TRACE}-{SPAN}-01", GIVEN),
        (f"cc-{TRACE}-{SPAN}-01-what-the-future-brings", GIVEN),
        (f"00-{TRACE}-{SPAN}-01-more", None),
        (f"cc-{TRACE}-{SPAN}-01.more", None),
        (f"ff-{TRACE}-{SPAN}-01", None),
        (f"00-{'0' * 32}-{SPAN}-01", None),
        (f"00-{TRACE}-{'0' * 16}-01", None),
        (GIVEN.upper(), None),
        (GIVEN + "\n", None),
        (GIVEN[:-1], None),
        ("", None),
        (None, None),
        (7, None),
    ],
)
def test_what_is_malformed_is_ignored(given: object, taken: str | None) -> None:
    """As W3C asks: the trace begins anew, and nothing is refused for it."""
    assert trace_context.accepted(given) == taken


def test_a_trace_that_nobody_began_is_called_by_the_correlation_id() -> None:
    """A UUID has as many digits as a trace id."""
    correlation_id = UUID(int=0xABC)

    assert trace_context.trace_id(GIVEN, correlation_id) == TRACE
    assert trace_context.trace_id(None, correlation_id) == f"{0xABC:032x}"


@pytest.mark.parametrize(
    ("event", "trace_id"),
    [
        ({"traceparent": GIVEN, "correlationid": str(UUID(int=0xABC))}, TRACE),
        ({"traceparent": "rubbish", "correlationid": str(UUID(int=0xABC))}, f"{0xABC:032x}"),
        ({"correlationid": "order 7"}, None),
        ({"correlationid": 7}, None),
        ({}, None),
    ],
)
def test_a_subscriber_knows_the_trace_by_the_event_alone(
    event: dict[str, object], trace_id: str | None
) -> None:
    """And one that says nothing of a trace is no worse for it."""
    assert trace_context.event_trace_id(event) == trace_id


@pytest.mark.parametrize(
    ("traceparent", "told"),
    [(GIVEN, f'{{"data": {{"a": 1}}, "traceparent": "{GIVEN}"}}'), (None, '{"data": {"a": 1}} ')],
)
def test_an_event_gets_it_as_an_attribute(traceparent: str | None, told: str) -> None:
    assert trace_context.in_event('{"data": {"a": 1}} ', traceparent) == told
