"""The W3C trace context: of which trace a message is a part, and which span caused it.

What OpenTelemetry's propagator does not do: it is strict with what strangers send, cheap, and names
a trace that nobody began by its correlation id.
"""

import re
from collections.abc import Mapping
from uuid import UUID

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?",
    re.DOTALL,
)


def accepted(traceparent: object) -> str | None:
    """The `traceparent` that somebody sent, as of version 00; None if it is malformed.

    W3C: a malformed one is ignored, and the trace begins anew; of a newer version only this part is
    understood.
    """
    if not isinstance(traceparent, str):
        return None
    known = _TRACEPARENT.fullmatch(traceparent)
    if known is None or (known[1] == "00" and known[3] is not None):
        return None
    return f"00-{known[2]}"


def trace_id(traceparent: str | None, correlation_id: UUID) -> str:
    """The trace's id as 32 hex digits: without a traceparent it is the correlation id."""
    return traceparent[3:35] if traceparent else correlation_id.hex


def event_trace_id(event: Mapping[str, object]) -> str | None:
    """The id of a CloudEvent's trace, as 32 hex digits; None if it names none."""
    if traceparent := accepted(event.get("traceparent")):
        return traceparent[3:35]
    correlation_id = as_uuid(event.get("correlationid"))
    return correlation_id.hex if correlation_id else None


def as_uuid(value: object) -> UUID | None:
    """The UUID that a stranger's correlation id is; None if it is anything else."""
    if isinstance(value, UUID):
        return value
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def in_event(body: str, traceparent: str | None) -> str:
    """The JSON text of a CloudEvent, with `traceparent` as its distributed tracing extension."""
    if traceparent is None:
        return body
    return f'{body[: body.rindex("}")]}, "traceparent": "{traceparent}"}}'
