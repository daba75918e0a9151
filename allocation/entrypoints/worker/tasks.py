"""One Celery task a command, under its name; the executor decides, `retries` has the delays."""

import time
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import structlog
from celery import Task
from celery.exceptions import Reject, SoftTimeLimitExceeded

from allocation.adapters.rabbitmq import topology
from allocation.entrypoints.worker import celery_internals, retries
from allocation.entrypoints.worker.executor import Call, Traced, result
from allocation.entrypoints.worker.failures import Failures
from allocation.messaging.telemetry import tracing
from allocation.service_layer.execution import fail
from allocation.service_layer.unit_of_work import (
    ConcurrentUpdate,
    StorageUnavailable,
    StorageUnusable,
)

if TYPE_CHECKING:
    from allocation.entrypoints.worker.app import WorkerApp

log = structlog.get_logger(__name__)

# A message that came with another routing key, or by another exchange, is no reason to differ.
_TO_THE_COMMANDS = {"exchange": topology.COMMANDS, "routing_key": topology.COMMANDS}

_undecided: ContextVar[Exception | None] = ContextVar("undecided", default=None)
"""Why the batch of the task that is running could not decide its command."""


class CommandTask(Task):
    """Decides the command that the task's name and keyword arguments are.

    A body that breaks the contract is refused and recorded, as any other refusal; one with fields
    of a newer contract is dead-lettered. Conflicts and an unreachable database are retried, up to
    seven minutes in all; a command that still fails then, or fails otherwise, is dead-lettered and
    marked as failed. While the database needs an operator, such as for a full disk, commands are
    retried without end.
    """

    app: "WorkerApp"
    Request = celery_internals.Request
    max_retries = retries.MAX_RETRIES

    def __init__(self, name: str) -> None:
        self.name = name

    @property
    def failures(self) -> Failures:
        """Settles the commands whose tasks failed."""
        return Failures(self.app.dead_letter)

    def __call__(self, *args: object, **body: object) -> dict[str, object]:
        call = Call(self.name, self.request.id, vars(self.request))
        structlog.contextvars.bind_contextvars(**call.names())
        try:
            if error := _undecided.get():
                raise error
            span = call.span()
            self.request.traceparent = span.traceparent
            with tracing.ending([span]):
                return result(self.app.executor.decide(call.within(span)))
        except (ConcurrentUpdate, StorageUnavailable, SoftTimeLimitExceeded) as error:
            raise self._later(error) from error
        finally:
            structlog.contextvars.clear_contextvars()

    def _later(self, error: Exception) -> Exception:
        """Have the broker deliver the command again after a while; returns what is to be raised."""
        first = self.request.get("first_failed_at") or datetime.now(UTC).isoformat()
        headers = {
            "first_failed_at": first,
            "traceparent": self.request.get("traceparent"),
            "CC": self.request.get("CC"),
        }
        if isinstance(error, StorageUnusable):
            if self.app.dependencies.settings.broker_transport is not None:
                # The embedded broker may not be able to write either: it keeps the message that it
                # has. It redelivers a returned message at once, so this process pauses before.
                log.warning(
                    "the command can't be decided now; it will be retried", error=str(error)
                )
                time.sleep(retries.UNUSABLE_PAUSE)
                return Reject(error, requeue=True)
            # Without end: the command is not the cause.
            self.request.retries = min(self.request.retries, retries.UNUSABLE_RETRIES)
        delay = retries.delay(self.request.retries)
        log.warning("the command failed; it will be retried", seconds=delay, error=repr(error))
        try:
            later = self.retry(
                exc=error,
                countdown=delay,
                headers={name: value for name, value in headers.items() if value is not None},
                throw=False,
                **_TO_THE_COMMANDS,
            )
        except Reject as unsent:
            # The broker takes no message now: it keeps the one that it has.
            return Reject(unsent.reason, requeue=True)
        self.app.dependencies.worker_metrics.retried(self.name)
        return later

    def on_failure(
        self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: object
    ) -> None:
        """Mark the command as failed; its message is on the way to the dead-letter queue."""
        dependencies = self.app.dependencies
        dependencies.worker_metrics.failed(self.name)
        failed = Call(self.name, task_id, {**vars(self.request), "args": args, "kwargs": kwargs})
        try:
            fail(failed.message(), f"{type(exc).__name__}: {exc}", dependencies.unit_of_work())
        except StorageUnavailable as error:
            log.error(
                "the command failed, but stays pending: its dead letter can be replayed",
                error=str(error),
                **failed.names(),
            )


TASKS = (
    CommandTask("allocation.create_product"),
    CommandTask("allocation.choose_strategy"),
    CommandTask("allocation.create_batch"),
    CommandTask("allocation.change_batch_quantity"),
    CommandTask("allocation.receive"),
    CommandTask("allocation.write_off"),
    CommandTask("allocation.change_batch_eta"),
    CommandTask("allocation.change_best_before"),
    CommandTask("allocation.block_batch"),
    CommandTask("allocation.unblock_batch"),
    CommandTask("allocation.allocate"),
    CommandTask("allocation.allocate_order"),
    CommandTask("allocation.change_line_quantity"),
    CommandTask("allocation.change_priority"),
    CommandTask("allocation.deallocate"),
    CommandTask("allocation.cancel_order"),
    CommandTask("allocation.reserve"),
    CommandTask("allocation.confirm"),
    CommandTask("allocation.extend"),
    CommandTask("allocation.release"),
    CommandTask("allocation.expire"),
    CommandTask("allocation.dispatch"),
    CommandTask("allocation.return_goods"),
    CommandTask("allocation.expire_batch"),
    CommandTask("allocation.mark_overdue"),
    CommandTask("allocation.review_promises"),
    CommandTask("allocation.allocate_waiting"),
)
"""Each command is a task under its name. Its keyword arguments are the fields of the command."""


def end_undecided(call: Call, error: Exception) -> Traced:
    """Retry the command, or have it fail, as if its task had just raised `error`."""
    token = _undecided.set(error)
    try:
        return celery_internals.trace(call)
    finally:
        _undecided.reset(token)
