"""Decides a batch of commands by one unit of work, in a process of the pool."""

import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple
from uuid import UUID

import structlog
from celery.exceptions import SoftTimeLimitExceeded

from allocation.adapters.metrics import WorkerMetrics
from allocation.adapters.rabbitmq import topology
from allocation.contract import codec, log_fields
from allocation.domain.commands import Malformed, Violation
from allocation.domain.outcomes import Outcome, Refused
from allocation.messaging.bisection import bisect
from allocation.messaging.telemetry import trace_context, tracing
from allocation.service_layer.execution import execute_batch
from allocation.service_layer.unit_of_work import Message, StorageUnavailable, UnitOfWork

log = structlog.get_logger(__name__)

QUICK, SLOW = 0.25, 1.0
"""Seconds of a transaction: after a slow one the next takes half as many commands, after a quick
one twice as many. So the locks of products are not held for long, nor does the time limit end it.
"""

Traced = tuple[int, object, float]
"""What Celery's tracer says of a task: whether it failed, its result as text, its seconds."""


class Call(NamedTuple):
    """A task to be carried out: its name, its id, and its request as Celery's tracer takes it."""

    name: str
    id: str
    request: Mapping[str, Any]

    @property
    def traceparent(self) -> str | None:
        return trace_context.accepted(self.request.get("traceparent"))

    @property
    def correlation_id(self) -> UUID:
        return UUID(self.request.get("root_id") or self.id)

    def message(self) -> Message:
        """The command that this is; a Malformed one if it breaks the contract."""
        command = codec.parse_command(self.name, self.request["kwargs"])
        if args := self.request["args"]:
            problem = Violation("args", "commands take keyword arguments only")
            command = Malformed(self.name, (problem,), repr(args)[:1000])
        parent_id = self.request.get("parent_id")
        return Message(
            id=UUID(self.id),
            command=command,
            correlation_id=self.correlation_id,
            causation_id=UUID(parent_id) if parent_id else None,
            traceparent=self.traceparent,
        )

    def names(self) -> dict[str, str]:
        """What the lines of the log name; the request may break the contract."""
        return {
            "command_id": self.id,
            "command": self.name,
            **log_fields.of_body(self.request["kwargs"]),
            "trace_id": trace_context.trace_id(self.traceparent, self.correlation_id),
        }

    def span(self) -> tracing.Span:
        """Begin the span in which the command is decided."""
        about = (self.name, self.id, topology.COMMANDS, self.traceparent)
        if not tracing.is_on():
            return tracing.message("process", *about, None)
        subject = log_fields.of_body(self.request["kwargs"])
        return tracing.message("process", *about, self.correlation_id, subject)

    def within(self, span: tracing.Span) -> "Call":
        """The call with `span` as the parent of all that it causes."""
        if span.traceparent == self.request.get("traceparent"):
            return self
        return self._replace(request={**self.request, "traceparent": span.traceparent})


class Executor:
    """Decides commands."""

    def __init__(
        self,
        unit_of_work: Callable[[], UnitOfWork],
        metrics: WorkerMetrics,
        end_undecided: Callable[[Call, Exception], Traced],
    ) -> None:
        """`end_undecided` retries or fails a command that could not be decided, by Celery's rules.

        For a decided command these rules would cost as much as the decision, and change nothing.
        """
        self._unit_of_work = unit_of_work
        self._metrics = metrics
        self._end_undecided = end_undecided
        self._at_once = sys.maxsize

    def run(self, calls: Sequence[Call]) -> list[Traced]:
        """Decide the commands together, and say of each what Celery's tracer would say."""
        begun = time.monotonic()
        spans = [call.span() for call in calls]
        calls = [call.within(span) for call, span in zip(calls, spans, strict=True)]
        decided = self._decide(calls)
        seconds = time.monotonic() - begun
        log.info("decided", commands=len(calls), seconds=round(seconds, 4))
        self._count(calls, decided, seconds)
        traced = [
            (0, repr(result(outcome)), seconds)
            if isinstance(outcome, Outcome)
            else self._end_undecided(call, outcome)
            for call, outcome in zip(calls, decided, strict=True)
        ]
        for span, (failed, value, _) in zip(spans, traced, strict=True):
            tracing.end([span], _why(value) if failed else None)
        return traced

    def decide(self, call: Call) -> Outcome:
        """Decide one command by a unit of work of its own. Raises what prevents that."""
        codec.check_fields(call.name, call.request["kwargs"])
        begun = time.monotonic()
        [outcome] = execute_batch([call.message()], self._unit_of_work())
        self._count([call], [outcome], time.monotonic() - begun)
        return outcome

    def _decide(self, calls: Sequence[Call]) -> list[Outcome | Exception]:
        """The outcome of each command, or the exception that prevented one."""
        decided: dict[int, Outcome | Exception] = {}
        for index, call in enumerate(calls):
            try:
                # A newer sender may mean something by unknown fields, so they are not refused.
                codec.check_fields(call.name, call.request["kwargs"])
            except codec.UnknownFields as error:
                decided[index] = error
        known = [index for index in range(len(calls)) if index not in decided]
        found: list[Outcome | Exception] = []
        messages = [calls[index].message() for index in known]
        # Whatever a command fails for, its own task raises it again.
        for _, part in bisect(messages, self._execute, fails=lambda error: True):
            found += [part] if isinstance(part, Exception) else part
        decided |= zip(known, found, strict=True)
        return [decided[index] for index in range(len(calls))]

    def _execute(self, messages: Sequence[Message]) -> list[Outcome | Exception]:
        decided: list[Outcome | Exception] = []
        while left := messages[len(decided) :]:
            part = left[: self._at_once]
            begun = time.monotonic()
            try:
                decided += execute_batch(part, self._unit_of_work())
            except (StorageUnavailable, SoftTimeLimitExceeded) as error:
                # No command is the cause, and to try each one would only take longer.
                decided += [type(error)(*error.args) for _ in left]
            finally:
                self._adapt(len(part), time.monotonic() - begun)
        return decided

    def _adapt(self, commands: int, seconds: float) -> None:
        if seconds > SLOW:
            self._at_once = max(1, commands // 2)
        elif seconds < QUICK and commands == self._at_once:
            self._at_once *= 2

    def _count(
        self, calls: Sequence[Call], decided: Sequence[Outcome | Exception], seconds: float
    ) -> None:
        outcomes = [
            (call.name, "rejected" if isinstance(outcome, Refused) else "succeeded")
            for call, outcome in zip(calls, decided, strict=True)
            if isinstance(outcome, Outcome)
        ]
        self._metrics.decided(outcomes, seconds, len(calls))


def result(outcome: Outcome) -> dict[str, object]:
    """What the task returns, for tools that watch tasks."""
    if isinstance(outcome, Refused):
        return {"refused": outcome.reason, **outcome.facts}
    return dict(outcome.facts)


def _why(failure: object) -> str:
    """What the span of a task that failed, or is retried, says."""
    exception = getattr(failure, "exception", failure)
    cause = getattr(exception, "exc", None) or exception
    return tracing.why(cause)
