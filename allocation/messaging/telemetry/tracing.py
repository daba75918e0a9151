"""Spans by OpenTelemetry's API; none are made until `start`, and only where the environment asks.

Its SDK is an extra, which `otel` alone imports, once it is needed.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.trace import INVALID_SPAN, StatusCode
from opentelemetry.trace import SpanKind as SpanKind
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from allocation.messaging.telemetry import trace_context

if TYPE_CHECKING:
    from allocation.messaging.telemetry.otel import Exporter, Provider

log = structlog.get_logger(__name__)

Attributes = Mapping[str, str | int]

new_trace_id: ContextVar[int | None] = ContextVar("new_trace_id", default=None)
"""The id for a trace that begins with the next span; None: a random one."""

_PROPAGATOR = TraceContextTextMapPropagator()

_provider: Provider | None = None
_tracer: trace.Tracer | None = None
_system = "rabbitmq"


class Span:
    """A span that was begun; it is exported once it ends.

    `traceparent` names it to what it causes. While no spans are made, that is its parent's.
    """

    __slots__ = ("_span", "traceparent")

    def __init__(self, span: trace.Span, traceparent: str | None) -> None:
        self._span = span
        self.traceparent = traceparent

    def end(self, error: str | None = None, attributes: Attributes | None = None) -> None:
        """It took until now; `error` says why it failed."""
        if self._span is INVALID_SPAN:
            return
        self._span.set_attributes(dict(attributes or {}))
        if error is not None:
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end()


def start(service: str, transport: str | None, exporter: Exporter | None = None) -> None:
    """Make spans from now on, if the environment names an endpoint; in a process that forks, after.

    The spans name `service`, unless OTEL_SERVICE_NAME says otherwise, and the broker's system by
    its `transport`, as `connection.connect` takes it. An `exporter` takes the spans instead of the
    endpoint. A second call does nothing.
    """
    global _provider, _tracer, _system
    if _provider is not None or not (exporter or _is_asked()):
        return
    try:
        from allocation.messaging.telemetry import otel
    except ModuleNotFoundError as missing:
        log.warning("no spans are recorded: install allocation[otel]", missing=missing.name)
        return
    _system = "rabbitmq" if transport is None else "spool"
    _provider = otel.Provider(service, exporter)
    _tracer = _provider.get_tracer("allocation")


def stop() -> None:
    """Send the spans that are left, before the process ends."""
    global _provider, _tracer
    if _provider is not None:
        _provider.stop()
        _provider = _tracer = None


@contextmanager
def making(service: str, transport: str | None) -> Iterator[None]:
    """Make spans inside, as after `start`, and send the last ones before it ends."""
    start(service, transport)
    try:
        yield
    finally:
        stop()


def is_on() -> bool:
    """Whether spans are made: what only they need costs nothing otherwise."""
    return _tracer is not None


def begin(
    name: str,
    kind: SpanKind,
    traceparent: str | None,
    attributes: Attributes,
    correlation_id: UUID | None = None,
) -> Span:
    """Begin a span below the one that `traceparent` names.

    Without one it begins a trace, which has the id of `correlation_id`.
    """
    if _tracer is None:
        return Span(INVALID_SPAN, traceparent)
    begun = correlation_id.int if correlation_id and traceparent is None else None
    token = new_trace_id.set(begun)
    try:
        parent = _PROPAGATOR.extract({"traceparent": traceparent or ""}, Context())
        span = _tracer.start_span(name, parent, kind, dict(attributes))
    finally:
        new_trace_id.reset(token)
    carrier: dict[str, str] = {}
    _PROPAGATOR.inject(carrier, trace.set_span_in_context(span, Context()))
    return Span(span, carrier.get("traceparent"))


def message(
    what: Literal["publish", "process"],
    name: str,
    message_id: str,
    destination: str,
    traceparent: str | None,
    correlation_id: object,
    subject: Mapping[str, str] | None = None,
) -> Span:
    """Begin the span in which a message called `name`, about `subject`, is published or processed.

    It is below the span that `traceparent` names, else it begins the correlation id's trace.
    """
    if _tracer is None:
        return Span(INVALID_SPAN, traceparent)
    about: Attributes = {
        "messaging.system": _system,
        "messaging.operation.name": what,
        "messaging.operation.type": "send" if what == "publish" else "process",
        "messaging.destination.name": destination,
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": str(correlation_id),
        **(subject or {}),
    }
    kind = SpanKind.PRODUCER if what == "publish" else SpanKind.CONSUMER
    begun = trace_context.as_uuid(correlation_id)
    return begin(f"{what} {name}", kind, traceparent, about, begun)


def event(
    what: Literal["publish", "process"],
    name: str,
    event_id: str,
    destination: str,
    body: Mapping[str, object],
) -> Span:
    """Begin the span of a CloudEvent as for `message`; its `body` names its trace."""
    traceparent = trace_context.accepted(body.get("traceparent"))
    return message(what, name, event_id, destination, traceparent, body.get("correlationid"))


def end(spans: Iterable[Span], error: str | None = None) -> None:
    """End them all."""
    for span in spans:
        span.end(error)


def why(error: object) -> str:
    """The exception and the first line of its text: the others may show a statement's values."""
    return f"{type(error).__name__}: {error}".partition("\n")[0][:1000]


@contextmanager
def ending(spans: Iterable[Span]) -> Iterator[None]:
    """End them with the block; if it raises, they have failed."""
    try:
        yield
    except BaseException as error:
        end(spans, why(error))
        raise
    end(spans)


def _is_asked() -> bool:
    if os.environ.get("OTEL_SDK_DISABLED", "").lower() == "true":
        return False
    names = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    return any(os.environ.get(name) for name in names)
