"""The fields by which a log line of a subscriber names the event that it is about."""

from contextlib import AbstractContextManager

import structlog

from allocation.messaging.cloudevents import Envelope


def about(event: Envelope) -> AbstractContextManager[None]:
    """Every line that is logged inside names the event."""
    return structlog.contextvars.bound_contextvars(**names(event))


def names(event: Envelope) -> dict[str, object]:
    """What a line about the event names it by."""
    known: dict[str, object] = {
        "event_id": str(event.id),
        "type": event.type,
        "sku": event.subject,
        "sequence": event.sequence,
        "command_id": event.body.get("causationid"),
        "command": event.causationtype,
        "orderid": event.data.get("orderid"),
        "trace_id": event.trace_id,
    }
    # What is no text says nothing.
    return {name: value for name, value in known.items() if isinstance(value, (str, int))}
