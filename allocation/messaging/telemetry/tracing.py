"""Spans, where OpenTelemetry is installed and told where to send them; else none are made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal
from uuid import UUID

import structlog

from allocation.settings import Settings

if TYPE_CHECKING:  # nothing of it is needed, nor loaded, until somebody asks for spans
    from allocation.messaging.telemetry.otel import Attributes, Exporter, Span, Tracer

log = structlog.get_logger(__name__)

_tracer: Tracer | None = None
_system = "rabbitmq"


def start(process: str, settings: Settings, exporter: Exporter | None = None) -> None:
    """Make spans from now on, if the environment names an endpoint; in a process that forks, after.

    The service is called `allocation-<process>`, unless OTEL_SERVICE_NAME says otherwise. An
    `exporter` takes the spans instead of the endpoint. A second call does nothing.
    """
    global _tracer, _system
    if _tracer is not None or not (exporter or _is_asked()):
        return
    try:
        from allocation.messaging.telemetry import otel
    except ModuleNotFoundError as missing:
        log.warning("no spans are made: install allocation[otel]", missing=missing.name)
        return
    _system = "rabbitmq" if settings.broker_transport is None else "spool"
    _tracer = otel.Tracer(f"allocation-{process}", exporter)


def stop() -> None:
    """Send the spans that are left, before the process ends."""
    global _tracer
    if _tracer is not None:
        _tracer.stop()
        _tracer = None


def is_on() -> bool:
    """Whether spans are made."""
    return _tracer is not None


def request(
    method: str, route: str | None, path: str, scheme: str, traceparent: str | None
) -> Span | None:
    """Begin the span of an HTTP request."""
    if _tracer is None:
        return None
    about = {"http.request.method": method, "url.path": path, "url.scheme": scheme}
    if route is not None:
        about["http.route"] = route
    name = method if route is None else f"{method} {route}"
    return _tracer.begin(name, "server", traceparent, None, about)


def message(
    what: Literal["publish", "process"],
    name: str,
    message_id: str,
    destination: str,
    traceparent: str | None,
    correlation_id: UUID,
    subject: Mapping[str, str] | None = None,
) -> Span | None:
    """Begin the span in which a message called `name`, about `subject`, is published or processed.

    Below the span that `traceparent` names; without one it begins the correlation id's trace.
    """
    if _tracer is None:
        return None
    about: Attributes = {
        "messaging.system": _system,
        "messaging.operation.name": what,
        "messaging.operation.type": "send" if what == "publish" else "process",
        "messaging.destination.name": destination,
        "messaging.message.id": message_id,
        "messaging.message.conversation_id": str(correlation_id),
        **(subject or {}),
    }
    kind = "producer" if what == "publish" else "consumer"
    return _tracer.begin(f"{what} {name}", kind, traceparent, correlation_id, about)


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
