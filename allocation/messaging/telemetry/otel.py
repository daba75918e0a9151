"""OpenTelemetry's SDK as it is set up here; `tracing` loads it when spans are asked for.

OpenTelemetry's own environment variables say where to send them, how often, and which part.
"""

import hashlib
import os
import threading
from typing import Any

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

from allocation.messaging.telemetry.tracing import new_trace_id

Exporter = SpanExporter

STOP_WITHIN = 3.0
"""Seconds that a process waits at its end for the last spans to be taken."""


class Provider(TracerProvider):
    """Makes the spans of one process, which must not fork any more."""

    def __init__(self, service: str, exporter: Exporter | None = None) -> None:
        """`exporter`: takes each span as it ends; None: OTLP, in the background."""
        named = "OTEL_SERVICE_NAME" in os.environ or "service.name=" in os.environ.get(
            "OTEL_RESOURCE_ATTRIBUTES", ""
        )
        super().__init__(
            resource=Resource.create({} if named else {"service.name": service}),
            id_generator=_Ids(),
            shutdown_on_exit=False,
        )
        self.sampler = _Fair(self.sampler)
        self.add_span_processor(
            SimpleSpanProcessor(exporter) if exporter else BatchSpanProcessor(OTLPSpanExporter())
        )

    def stop(self) -> None:
        """Send what is left, for STOP_WITHIN: a collector that is away holds nobody up."""
        last = threading.Thread(target=self.shutdown, daemon=True)
        last.start()
        last.join(STOP_WITHIN)


class _Ids(RandomIdGenerator):
    """A trace that nobody began has the id of its correlation id."""

    def generate_trace_id(self) -> int:
        return new_trace_id.get() or super().generate_trace_id()

    def is_trace_id_random(self) -> bool:
        return False


class _Fair(Sampler):
    """Another sampler, which gets a hash of the trace ids that are UUIDs.

    OpenTelemetry's ratio goes by the lower half of the id, and in a UUID two bits of that are
    always the same: of such traces it would take none, or all.
    """

    def __init__(self, sampler: Sampler) -> None:
        self._sampler = sampler

    def should_sample(
        self, parent_context: Context | None, trace_id: int, *args: Any, **options: Any
    ) -> SamplingResult:
        if trace_id == new_trace_id.get():
            spread = hashlib.blake2b(trace_id.to_bytes(16), digest_size=16)
            trace_id = int.from_bytes(spread.digest())
        return self._sampler.should_sample(parent_context, trace_id, *args, **options)

    def get_description(self) -> str:
        return self._sampler.get_description()
