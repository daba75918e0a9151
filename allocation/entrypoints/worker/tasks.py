"""One Celery task per command: it translates and states the retry policy; a handler decides."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from time import perf_counter
from typing import Any
from uuid import UUID

import structlog
from celery import Task
from celery.exceptions import Reject, SoftTimeLimitExceeded
from celery.utils.time import get_exponential_backoff_interval

from allocation import bootstrap
from allocation.adapters import metrics
from allocation.adapters.rabbitmq import topology
from allocation.contract import codec, log_fields
from allocation.domain.commands import Malformed
from allocation.domain.outcomes import Outcome, Refused
from allocation.entrypoints.worker.app import app
from allocation.messaging.telemetry import trace_context, tracing
from allocation.service_layer.handlers import decide, fail
from allocation.service_layer.unit_of_work import (
    ConcurrentUpdate,
    Message,
    StorageUnavailable,
    StorageUnusable,
)

log = structlog.get_logger(__name__)


UNUSABLE_PAUSE = 1.0
"""Seconds before a command goes back to the embedded broker, which redelivers it at once."""
UNUSABLE_RETRIES = 6
"""How far retries are counted while the storage can't be used: the delay is the longest by then."""


class CommandTask(Task):
    """Decides the command that the task's name and keyword arguments are.

    A body that breaks the contract is refused and recorded, as any other refusal; one of a newer
    contract becomes a dead letter. Conflicts and an
    unreachable database are retried, about seven minutes in all; what still fails then, or fails
    otherwise, is dead-lettered and the command marked as failed. While the database needs an
    operator, such as for a full disk, commands are retried without end.
    """

    Request = "allocation.entrypoints.worker.failures:CommandRequest"
    max_retries = 12
    longest_delay = 60  # seconds

    def __call__(self, *args: object, **body: object) -> dict[str, object]:
        structlog.contextvars.bind_contextvars(
            **_names(self.name, self.request.id, vars(self.request))
        )
        # A job has begun its spans already.
        spans = []
        if "undecided" not in vars(self.request):
            spans.append(span(self.name, self.request.id, vars(self.request)))
            self.request.traceparent = spans[0].traceparent
        try:
            with tracing.ending(spans):
                outcome = self._outcome(body)
        except (ConcurrentUpdate, StorageUnavailable, SoftTimeLimitExceeded) as error:
            raise self._later(error) from error
        finally:
            structlog.contextvars.clear_contextvars()
        return result(outcome)

    def _outcome(self, body: Mapping[str, Any]) -> Outcome:
        """Decide the command, unless that failed already with other commands in its job."""
        if error := self.request.get("undecided"):
            raise error
        # A newer sender may mean something by them: neither to be ignored nor to be refused.
        codec.check_fields(self.name, body)
        command = message(self.name, self.request.id, vars(self.request))
        began = perf_counter()
        outcome = decide(command, bootstrap.unit_of_work())
        metrics.worker().decided([(self.name, status(outcome))], perf_counter() - began, 1)
        return outcome

    def _later(self, error: Exception) -> Exception:
        """Have the broker deliver the command again after a while; returns what is to be raised."""
        first = self.request.get("first_failed_at") or datetime.now(UTC).isoformat()
        headers = {"first_failed_at": first, "traceparent": self.request.get("traceparent")}
        if isinstance(error, StorageUnusable):
            if bootstrap.settings().broker_transport is not None:
                # The embedded broker may not be able to write either: it keeps what it has.
                log.warning("the command can't be decided now", error=str(error))
                time.sleep(UNUSABLE_PAUSE)
                return Reject(error, requeue=True)
            # Without end: the command is not the cause.
            self.request.retries = min(self.request.retries, UNUSABLE_RETRIES)
        delay = self._delay()
        log.warning("retry: nobody could decide the command", seconds=delay, error=repr(error))
        try:
            later = self.retry(
                exc=error,
                countdown=delay,
                headers={name: value for name, value in headers.items() if value is not None},
                throw=False,
            )
        except Reject as unsent:
            # The broker takes no message now: it keeps the one that it has.
            return Reject(unsent.reason, requeue=True)
        metrics.worker().retried(self.name)
        return later

    def on_failure(
        self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: object
    ) -> None:
        """Mark the command as failed; its message is on the way to the dead-letter queue."""
        metrics.worker().failed(self.name)
        failed = message(self.name, task_id, {**vars(self.request), "args": args, "kwargs": kwargs})
        try:
            fail(failed, f"{type(exc).__name__}: {exc}", bootstrap.unit_of_work())
        except StorageUnavailable as error:
            log.error(
                "the command stays pending though it failed: its dead letter can be replayed",
                error=str(error),
                **_names(self.name, task_id, {**vars(self.request), "kwargs": kwargs}),
            )

    def _delay(self) -> int:
        """Seconds until the next try: doubling, spread at random, and never 0."""
        delay = get_exponential_backoff_interval(
            factor=1,
            retries=self.request.retries,
            maximum=self.longest_delay,
            full_jitter=True,
        )
        return max(1, delay)


@app.task(base=CommandTask, name="allocation.create_batch")
def create_batch(
    *, batchref: str, sku: str, qty: int, eta: str | None = None, best_before: str | None = None
) -> None:
    """Put `qty` pieces on the books; days are YYYY-MM-DD, no `eta` means on the shelf."""


@app.task(base=CommandTask, name="allocation.allocate")
def allocate(
    *, orderid: str, sku: str, qty: int, customer: str | None = None, split: bool = False
) -> None:
    """Promise stock to one order line; `split`: of several batches, if need be."""


@app.task(base=CommandTask, name="allocation.allocate_order")
def allocate_order(
    *,
    orderid: str,
    lines: list[dict[str, Any]],
    all_or_nothing: bool = False,
    ttl: int | None = None,
    customer: str | None = None,
) -> None:
    """Promise stock to every line ({sku, qty, split?}) of an order, or hold it `ttl` seconds."""


@app.task(base=CommandTask, name="allocation.reserve")
def reserve(
    *, orderid: str, sku: str, qty: int, ttl: int, customer: str | None = None, split: bool = False
) -> None:
    """Hold stock for one order line, for `ttl` seconds."""


@app.task(base=CommandTask, name="allocation.confirm")
def confirm(*, orderid: str) -> None:
    """Make every held line of the order an allocation."""


@app.task(base=CommandTask, name="allocation.extend")
def extend(*, orderid: str, ttl: int) -> None:
    """Hold the order's held lines for `ttl` seconds from now on."""


@app.task(base=CommandTask, name="allocation.release")
def release(*, orderid: str) -> None:
    """Give up every held line of the order."""


@app.task(base=CommandTask, name="allocation.expire")
def expire(*, orderid: str, expires_at: str) -> None:
    """Give up the lines of the order that are held until that moment, in ISO 8601."""


@app.task(base=CommandTask, name="allocation.dispatch")
def dispatch(*, orderid: str, sku: str, batchref: str | None = None) -> None:
    """Take an allocated line's goods off the books."""


@app.task(base=CommandTask, name="allocation.deallocate")
def deallocate(*, orderid: str, sku: str) -> None:
    """Give up one order line."""


@app.task(base=CommandTask, name="allocation.change_batch_quantity")
def change_batch_quantity(*, batchref: str, qty: int) -> None:
    """Set a batch's purchased quantity."""


@app.task(base=CommandTask, name="allocation.change_batch_eta")
def change_batch_eta(*, batchref: str, eta: str | None = None) -> None:
    """Set when a batch arrives; `eta` is YYYY-MM-DD, or None: it is on the shelf now."""


@app.task(base=CommandTask, name="allocation.write_off")
def write_off(*, batchref: str, qty: int, reason: str) -> None:
    """Take `qty` pieces off a batch's books."""


@app.task(base=CommandTask, name="allocation.choose_strategy")
def choose_strategy(*, sku: str, strategy: str) -> None:
    """Have a product's batches serve in another order."""


@app.task(base=CommandTask, name="allocation.review_promises")
def review_promises(*, batchref: str) -> None:
    """Go on telling the lines of a batch that it comes on another day."""


@app.task(base=CommandTask, name="allocation.allocate_waiting")
def allocate_waiting(*, sku: str) -> None:
    """Serve the lines that wait for this sku."""


def result(outcome: Outcome) -> dict[str, object]:
    """What the task returns, for those who watch."""
    if isinstance(outcome, Refused):
        return {"refused": outcome.reason, **outcome.facts}
    return dict(outcome.facts)


def status(outcome: Outcome) -> str:
    """As it is recorded: `rejected` or `succeeded`."""
    return "rejected" if isinstance(outcome, Refused) else "succeeded"


def message(name: str, command_id: str, request: Mapping[str, Any]) -> Message:
    """The command that a request for the task `name` is; Malformed where it breaks the contract."""
    command = codec.parse_command(name, request["kwargs"])
    if args := request["args"]:
        command = Malformed(name, "args", "commands take keyword arguments only", repr(args)[:1000])
    root_id, parent_id = request.get("root_id"), request.get("parent_id")
    return Message(
        id=UUID(command_id),
        command=command,
        correlation_id=UUID(root_id or command_id),
        causation_id=UUID(parent_id) if parent_id else None,
        traceparent=trace_context.accepted(request.get("traceparent")),
    )


def span(name: str, command_id: str, request: Mapping[str, Any]) -> tracing.Span:
    """The span in which the command of a request is decided."""
    traceparent = trace_context.accepted(request.get("traceparent"))
    correlation_id = request.get("root_id") or command_id
    about = (name, command_id, topology.COMMANDS, traceparent, correlation_id)
    subject = log_fields.of_body(request["kwargs"]) if tracing.is_on() else {}
    return tracing.message("process", *about, subject)


def _names(name: str, command_id: str, request: Mapping[str, Any]) -> dict[str, str]:
    """As `log_fields.of_message`, of a request that may not be understood."""
    traceparent = trace_context.accepted(request.get("traceparent"))
    return {
        "command_id": command_id,
        "command": name,
        **log_fields.of_body(request["kwargs"]),
        "trace_id": trace_context.trace_id(traceparent, UUID(request.get("root_id") or command_id)),
    }
