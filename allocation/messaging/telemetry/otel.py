"""Spans by OpenTelemetry, sent by its OTLP exporter; `tracing` loads it when it is asked.

OpenTelemetry's own environment variables say where to, how often, and what part of the traces.
"""

import hashlib
import os
import threading
from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any
from uuid import UUID

from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import (
    BatchSpanProcessor,
    SimpleSpanProcessor,
    SpanExporter,
)
from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
from opentelemetry.sdk.trace.sampling import Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags

Attributes = Mapping[str, str | int]
Exporter = SpanExporter

STOP_WITHIN = 3.0
"""Seconds that a process waits at its end for the last spans to be taken."""

_wanted: ContextVar[int | None] = ContextVar("trace_id", default=None)


class _Ids(RandomIdGenerator):
    """A trace that nobody began is called by its correlation id."""

    def generate_trace_id(self) -> int:
        return _wanted.get() or super().generate_trace_id()

    def is_trace_id_random(self) -> bool:
        return False


class _Fair(Sampler):
    """Another sampler, for which a UUID is as good as any trace id.

    The ratio of OpenTelemetry goes by the lower half of the id, and in a UUID two bits of that are
    always the same: of such traces it would take none, or all.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self, parent_context: Context | None, trace_id: int, *args: Any, **options: Any
    ) -> SamplingResult:
        if trace_id == _wanted.get():
            spread = hashlib.blake2b(trace_id.to_bytes(16), digest_size=16)
            trace_id = int.from_bytes(spread.digest())
        return self._sampler.should_sample(parent_context, trace_id, *args, **options)

    def get_description(self) -> str:
        return self._sampler.get_description()


class Span:
    """One that was begun; without `end` nobody ever hears of it."""

    def __init__(self, span: trace.Span) -> None:
        self._span = span
        context = span.get_span_context()
        ids = f"{context.trace_id:032x}-{context.span_id:016x}"
        self.traceparent = f"00-{ids}-{context.trace_flags:02x}"

    def end(self, error: str | None = None, attributes: Attributes | None = None) -> None:
        """It took until now; `error` says why it failed."""
        self._span.set_attributes(dict(attributes or {}))
        if error is not None:
            self._span.set_status(StatusCode.ERROR, error)
        self._span.end()


class Tracer:
    """Makes the spans of one process, which must not fork any more."""

    def __init__(self, service: str, exporter: Exporter | None = None) -> None:
        """`exporter`: takes each span as it ends; None: OTLP, in the background."""
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        self._provider = TracerProvider(
            resource=Resource.create({} if named else {"service.name": service}),
            id_generator=_Ids(),
            shutdown_on_exit=False,
        )
        self._provider.sampler = _Fair(self._provider.sampler)
        self._provider.add_span_processor(
            SimpleSpanProcessor(exporter) if exporter else BatchSpanProcessor(OTLPSpanExporter())
        )
        self._tracer = self._provider.get_tracer("allocation")

    def begin(
        self,
        name: str,
        kind: str,
        traceparent: str | None,
        correlation_id: UUID | None,
        attributes: Attributes,
    ) -> Span:
        """A span below the one that `traceparent` names; without it, the first of a trace."""
        begun = correlation_id.int if correlation_id and traceparent is None else None
        token = _wanted.set(begun)
        try:
            context = _context(traceparent)
            span = self._tracer.start_span(name, context, SpanKind[kind.upper()], dict(attributes))
            return Span(span)
        finally:
            _wanted.reset(token)

    def stop(self) -> None:
        """Send what is left, for a moment: a collector that is away holds nobody up."""
        last = threading.Thread(target=self._provider.shutdown, daemon=True)
        last.start()
        last.join(STOP_WITHIN)


def _context(traceparent: str | None) -> Context:
    if traceparent is None:
        return Context()
    _, trace_id, span_id, flags = traceparent.split("-")
    parent = SpanContext(
        int(trace_id, 16), int(span_id, 16), is_remote=True, trace_flags=TraceFlags(int(flags, 16))
    )
    return trace.set_span_in_context(NonRecordingSpan(parent), Context())
