"""Spans as OpenTelemetry makes them for both sides of the broker: ids, parents, samples."""

from inspect import getsource
from types import ModuleType
from uuid import NAMESPACE_OID, UUID, uuid4, uuid5

import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from allocation.messaging.telemetry import otel
from workers import otel as of_workers

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"
UNSAMPLED = f"00-{TRACE}-b7ad6b7169203331-00"

BOTH = pytest.mark.parametrize("module", [otel, of_workers], ids=["allocation", "workers"])


def made(module: ModuleType, *begun: tuple[str | None, UUID]) -> list[tuple[str, str | None]]:
    """Trace id and parent of each span that is heard of, of these traceparents and commands."""
    spans = InMemorySpanExporter()
    tracer = module.Tracer("shop", spans)
    for traceparent, correlation_id in begun:
        tracer.begin("process", "consumer", traceparent, correlation_id, {}).end()
    return [
        (f"{span.context.trace_id:032x}", f"{span.parent.span_id:016x}" if span.parent else None)
        for span in spans.get_finished_spans()
    ]


@BOTH
def test_a_span_is_the_child_of_its_traceparent_or_begins_the_correlation_ids_trace(
    module: ModuleType,
) -> None:
    """So that log lines and spans name the same trace."""
    command_id = uuid4()

    assert made(module, (CALLER, command_id), (None, command_id)) == [
        (TRACE, "b7ad6b7169203331"),
        (command_id.hex, None),
    ]


@BOTH
def test_a_trace_that_its_caller_does_not_sample_has_no_span(module: ModuleType) -> None:
    """Its flags are carried on, so nobody behind makes one either."""
    tracer = module.Tracer("shop", InMemorySpanExporter())

    span = tracer.begin("process", "consumer", UNSAMPLED, uuid4(), {})

    assert made(module, (UNSAMPLED, uuid4())) == []
    assert (span.traceparent[:36], span.traceparent[-3:]) == (UNSAMPLED[:36], "-00")


@BOTH
def test_a_part_of_the_traces_that_are_called_by_uuids_is_sampled(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two bits of a UUID are always the same: an eighth is neither none nor all for it."""
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", "parentbased_traceidratio")
    monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", "0.125")
    commands = [uuid5(NAMESPACE_OID, str(number)) for number in range(800)]

    sampled = made(module, *((None, command_id) for command_id in commands))

    assert 70 <= len(sampled) <= 130
    assert {trace_id for trace_id, _ in sampled} <= {each.hex for each in commands}


def test_both_sides_make_their_spans_by_the_same_lines() -> None:
    """Workers import nothing of allocation: what they have twice must not drift apart."""
    assert getsource(otel) == getsource(of_workers)
