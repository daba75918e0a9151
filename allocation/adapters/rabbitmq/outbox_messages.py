"""The messages that rows of the outbox become."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from allocation.adapters.rabbitmq import topology
from allocation.messaging.celery_message import celery_message
from allocation.messaging.publisher import Outgoing
from allocation.messaging.telemetry import trace_context, tracing


@contextmanager
def messages(rows: Sequence[Any]) -> Iterator[Sequence[Outgoing]]:
    """The messages that rows become; their spans, if any are made, end with the block."""
    spans = [_span(row) for row in rows]
    with tracing.ending(spans):
        yield [outgoing(row, span.traceparent) for row, span in zip(rows, spans, strict=True)]


def outgoing(row: Any, traceparent: str | None) -> Outgoing:
    """The message that a row of the outbox is: a Celery task, or a CloudEvent to the fanout.

    The row's ids are text, and its body is JSON text. `traceparent` names the span that sends it.
    """
    if row.kind == "event":
        return Outgoing(
            id=row.id,
            exchange=topology.EVENTS,
            routing_key="",
            body=trace_context.in_event(row.body, traceparent),
            content_type="application/cloudevents+json",
        )
    fields = json.loads(row.body)
    task = celery_message(
        row.name,
        row.id,
        fields,
        root_id=row.correlation_id,
        parent_id=row.causation_id,
        # Its product, where it names none that of its batch; else its order; else its batch.
        slot_by=row.sku or fields.get("orderid") or fields.get("batchref"),
    )
    return Outgoing(
        id=row.id,
        exchange=topology.COMMANDS,
        routing_key=topology.COMMANDS,
        body=json.dumps(task.body),
        content_type="application/json",
        headers=task.headers | ({"traceparent": traceparent} if traceparent else {}),
        properties=task.properties,
    )


def _span(row: Any) -> tracing.Span:
    """The span in which a row is published."""
    destination = topology.EVENTS if row.kind == "event" else topology.COMMANDS
    about = (row.name, row.id, destination, row.traceparent, row.correlation_id)
    return tracing.message("publish", *about)
