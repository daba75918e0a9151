"""Spans, where OpenTelemetry is installed and told where to send them; else none are made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import structlog

from allocation.messaging.cloudevents import Envelope
from workers import trace_context
from workers.settings import Settings

if TYPE_CHECKING:  # nothing of it is needed, nor loaded, until somebody asks for spans
    from workers.otel import Attributes, Exporter, Span, Tracer

log = structlog.get_logger(__name__)

_tracer: Tracer | None = None
_system = "rabbitmq"


def start(process: str, settings: Settings, exporter: Exporter | None = None) -> None:
    """Make spans from now on, if the environment names an endpoint; in a process that forks, after.

    The service is called as the process, unless OTEL_SERVICE_NAME says otherwise. An
    `exporter` takes the spans instead of the endpoint. A second call does nothing.
    """
    global _tracer, _system
    if _tracer is not None or not (exporter or _is_asked()):
        return
    try:
        from workers import otel
    except ModuleNotFoundError as missing:
        log.warning("no spans are made: install allocation[otel]", missing=missing.name)
        return
    _system = "rabbitmq" if settings.broker_transport is None else "spool"
    _tracer = otel.Tracer(process, exporter)


def stop() -> None:
    """Send the spans that are left, before the process ends."""
    global _tracer
    if _tracer is not None:
        _tracer.stop()
        _tracer = None


def published(
    kind: str, event_id: str, destination: str, event: Mapping[str, object]
) -> Span | None:
    """Begin the span in which an event is published; what it says of its trace is in its body."""
    return _message("publish", kind, event_id, destination, event)


def processed(event: Envelope, queue: str) -> Span | None:
    """Begin the span in which an event of a queue takes effect."""
    return _message("process", event.type, str(event.id), queue, event.body)


def dispatched(orderid: str, traceparent: str | None) -> Span | None:
    """Begin the span in which a person says that an order's goods leave."""
    if _tracer is None:
        return None
    return _tracer.begin("dispatch", "internal", traceparent, None, {"orderid": orderid})


def _message(
    what: Literal["publish", "process"],
    name: str,
    message_id: str,
    destination: str,
    event: Mapping[str, object],
) -> Span | None:
    if _tracer is None:
        return None
    about: Attributes = {
        "messaging.system": _system,
        "messaging.operation.name": what,
        "messaging.operation.type": "send" if what == "publish" else "process",
        "messaging.destination.name": destination,
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": str(event.get("correlationid")),
    }
    kind = "producer" if what == "publish" else "consumer"
    traceparent = trace_context.accepted(event.get("traceparent"))
    trace_id = trace_context.trace_id(event)
    begun = None if trace_id is None else UUID(trace_id)
    return _tracer.begin(f"{what} {name}", kind, traceparent, begun, about)


def caused_by(span: Span | None) -> str | None:
    """The traceparent of what a span leads to."""
    return None if span is None else span.traceparent


@contextmanager
def making(process: str, settings: Settings) -> Iterator[None]:
    """Make spans inside, as after `start`, and send the last ones before it ends."""
    start(process, settings)
    try:
        yield
    finally:
        stop()


def end(spans: Iterable[Span | None], error: str | None = None) -> None:
    """They took until now."""
    for span in spans:
        if span is not None:
            span.end(error)


def why(error: object) -> str:
    """The exception and the first line of its text: the others may show a statement's values."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:1000]


@contextmanager
def ending(spans: Sequence[Span | None]) -> Iterator[None]:
    """They end with the block; where it raises, they have failed."""
    try:
        yield
    except BaseException as error:
        end(spans, why(error))
        raise
    end(spans)


def _is_asked() -> bool:
    said = os.environ
    if said.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(said.get(name) for name in names)
