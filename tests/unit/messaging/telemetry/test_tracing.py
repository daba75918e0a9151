"""Spans as OpenTelemetry makes them: ids, parents, samples."""

import subprocess
import sys
from collections.abc import Iterator
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind

from allocation.messaging.telemetry import tracing

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    yield
    tracing.stop()


def begin(traceparent: str | None, correlation_id: UUID) -> tracing.Span:
    return tracing.begin("process", SpanKind.CONSUMER, traceparent, {}, correlation_id)


def made(*begun: tuple[str | None, UUID]) -> list[tuple[str, str | None]]:
    """Trace id and parent of each span that is exported, of these traceparents and commands."""
    spans = InMemorySpanExporter()
    tracing.start("shop", None, spans)
    for traceparent, correlation_id in begun:
        begin(traceparent, correlation_id).end()
    return [
        (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}" if span.parent else None)
        for span in spans.get_finished_spans()
    ]


def test_a_span_is_the_child_of_its_traceparent_or_begins_the_correlation_ids_trace() -> None:
    """So that log lines and spans name the same trace."""
    command_id = uuid4()

    assert made((CALLER, command_id), (None, command_id)) == [
        (TRACE, "b7ad6b7169203331"),
        (command_id.hex, None),
    ]


def test_a_trace_that_its_caller_does_not_sample_has_no_span() -> None:
    """Its flags are carried on, so nobody behind makes one either."""
    tracing.start("shop", None, InMemorySpanExporter())
    span = begin(UNSAMPLED, uuid4())
    tracing.stop()

    assert made((UNSAMPLED, uuid4())) == []
    assert span.traceparent is not None
    assert (span.traceparent[:36], span.traceparent[-3:]) == (UNSAMPLED[:36], "-00")


def test_a_part_of_the_traces_that_are_called_by_uuids_is_sampled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Two bits of a UUID are always the same: an eighth is neither none nor all for it."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.125")
    commands = [uuid5(NAMESPACE_OID, str(number)) for number in range(800)]

    sampled = made(*((None, command_id) for command_id in commands))

    assert 70 <= len(sampled) <= 130
    assert {trace_id for trace_id, _ in sampled} <= {each.hex for each in commands}


def test_while_no_spans_are_made_the_traceparent_is_carried_on() -> None:
    spans = [begin(CALLER, uuid4()), begin(None, uuid4())]

    tracing.end(spans)

    assert [span.traceparent for span in spans] == [CALLER, None]


PROGRAM = """
import sys
from allocation.messaging.telemetry import tracing
tracing.start("shop", None)
print(tracing.is_on(), "opentelemetry.sdk" in sys.modules)
"""


def test_the_sdk_is_not_loaded_unless_the_environment_asks_for_spans(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("OTEL_EXPORTER_OTLP_ENDPOINT", raising=False)
    without = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    asked = subprocess.check_output([sys.executable, "-c", PROGRAM], text=True)

    assert (without, asked) == ("False False\n", "True True\n")
