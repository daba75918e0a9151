"""What a pool process is given: commands that were there together, decided by one unit of work."""

import time
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import structlog
from celery.app.trace import fast_trace_task
from celery.exceptions import SoftTimeLimitExceeded

from allocation import bootstrap
from allocation.adapters import metrics
from allocation.contract import codec
from allocation.domain.outcomes import Outcome
from allocation.entrypoints.worker.tasks import message, result, span, status
from allocation.messaging.telemetry import tracing
from allocation.service_layer.handlers import decide_together
from allocation.service_layer.unit_of_work import Message, StorageUnavailable

log = structlog.get_logger(__name__)


Traced = tuple[int, object, float]
"""What Celery's tracer says of a task: whether it failed, its result as text, its seconds."""


class Call(NamedTuple):
    """A task to be carried out: its name, its id, and its request as Celery's tracer takes it."""

    name: str
    id: str
    request: Mapping[str, Any]


def run(calls: Sequence[Call]) -> list[Traced]:
    """Decide the commands together; those that nobody could decide end as the tasks that they are.

    Such a task is retried, or fails, by Celery's own ways. For the others these would cost as much
    as the decision, and come to the same.
    """
    begun = time.monotonic()
    spans = [span(*call) for call in calls]
    calls = [_within(*each) for each in zip(calls, spans, strict=True)]
    known = {index: message(*call) for index, call in enumerate(calls) if _is_understood(call)}
    decided = dict(zip(known, decide_ahead(list(known.values())), strict=True))
    seconds = time.monotonic() - begun
    log.info("decided", commands=len(calls), seconds=round(seconds, 4))
    outcomes = [
        (calls[index].name, status(outcome))
        for index, outcome in decided.items()
        if isinstance(outcome, Outcome)
    ]
    metrics.worker().decided(outcomes, seconds, len(calls))
    traced = [
        (0, repr(result(outcome)), seconds)
        if isinstance(outcome := decided.get(index), Outcome)
        else _trace(call, outcome)
        for index, call in enumerate(calls)
    ]
    for each, (failed, told, _) in zip(spans, traced, strict=True):
        each.end(_why(told) if failed else None)
    return traced


def decide_ahead(messages: Sequence[Message]) -> list[Outcome | Exception]:
    """The outcome of each command, or why nobody could decide it.

    Where the unit of work fails it is split, until the command that it fails for stands alone.
    """
    try:
        return list(decide_together(messages, bootstrap.unit_of_work()))
    except (StorageUnavailable, SoftTimeLimitExceeded) as error:
        # The fault is no command's, and trying each of them would take its time.
        return [type(error)(*error.args) for _ in messages]
    except Exception as error:  # noqa: BLE001 - whatever it is, it is raised again in its own task
        if len(messages) == 1:
            return [error]
        log.warning("commands are decided apart", commands=len(messages), error=repr(error))
    half = len(messages) // 2
    return decide_ahead(messages[:half]) + decide_ahead(messages[half:])


def _trace(call: Call, error: Exception | None) -> Traced:
    traced: Traced = fast_trace_task(
        call.name,
        call.id,
        {**call.request, "undecided": error},
        (call.request["args"], call.request["kwargs"], {}),
        None,
        None,
    )
    return traced


def _why(told: object) -> str:
    """What the span of a task that failed says, or of one that is tried again."""
    exception = getattr(told, "exception", told)
    cause = getattr(exception, "exc", None) or exception
    return tracing.why(cause)


def _within(call: Call, processed: tracing.Span) -> Call:
    """What the command leads to is caused by its span."""
    if not tracing.is_on():
        return call
    return call._replace(request={**call.request, "traceparent": processed.traceparent})


def _is_understood(call: Call) -> bool:
    """Else its task says what becomes of it."""
    try:
        codec.check_fields(call.name, call.request["kwargs"])
    except codec.UnknownFields:
        return False
    return True
