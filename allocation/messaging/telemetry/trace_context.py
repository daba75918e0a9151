"""The W3C trace context: of which trace a command is a part, and what part of it caused it."""

import re
from uuid import UUID

_TRACEPARENT = re.compile(
    r"(?!ff)([0-9a-f]{2})-((?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2})(-.*)?",
    re.DOTALL,
)


def accepted(traceparent: object) -> str | None:
    """The `traceparent` that somebody gave, as of version 00; None where it is none.

    W3C: what is malformed is ignored, and the trace begins anew; of a newer version only this part
    is understood.
    """
    if not isinstance(traceparent, str):
        return None
    known = _TRACEPARENT.fullmatch(traceparent)
    if known is None or (known[1] == "00" and known[3] is not None):
        return None
    return f"00-{known[2]}"


def trace_id(traceparent: str | None, correlation_id: UUID) -> str:
    """The trace's id as 32 hex digits: where nobody gave one, it is the correlation id."""
    return traceparent[3:35] if traceparent else correlation_id.hex


def in_event(body: str, traceparent: str | None) -> str:
    """The JSON text of a CloudEvent, with `traceparent` as its distributed tracing extension."""
    if traceparent is None:
        return body
    return f'{body[: body.rindex("}")]}, "traceparent": "{traceparent}"}}'
