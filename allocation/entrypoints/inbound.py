"""The inbound adapter: events of other systems, as CloudEvents, are accepted as commands."""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog
from kombu import Connection
from kombu.message import Message as Delivered
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from structlog.contextvars import bound_contextvars

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql.migrations import wait_for_schema
from allocation.bootstrap import Dependencies, build
from allocation.contract import inbound_events
from allocation.messaging import backoff, lifecycle
from allocation.messaging.bisection import bisect
from allocation.messaging.consumer import Consumer
from allocation.messaging.dead_letters import DeadLetterQueue
from allocation.messaging.telemetry import heartbeat, logs, metrics_server, tracing
from allocation.service_layer import execution
from allocation.service_layer.unit_of_work import (
    CommandConflict,
    ConcurrentUpdate,
    Message,
    StorageUnavailable,
)

log = structlog.get_logger(__name__)

NAME = "inbound"
BATCH_SIZE = 100
"""Events that are accepted by one transaction, at most."""
TRIES = 5
"""Times that a batch is tried while others change the same rows."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A command, and the message that asked for it."""

    message: Delivered
    command: Message
    span: tracing.Span


def main() -> None:
    """Accept the events of other systems until a signal comes."""
    dependencies = build()
    settings = dependencies.settings
    logs.configure(settings.log_format, settings.log_level)
    with tracing.making("allocation-inbound", settings.broker_transport):
        run(dependencies, lifecycle.stop_signal())


def run(dependencies: Dependencies, stop: threading.Event) -> None:
    """Accept the events of other systems until `stop` is set, through outages."""
    settings = dependencies.settings
    registry = dependencies.inbound_metrics.registry
    metrics_server.serve(registry, settings.metrics_host, settings.metrics_port, "allocation")
    Inbound(dependencies).run(stop)


class Inbound:
    """The handler of the queue's messages.

    An event is acknowledged once its command is committed, or once it is dead-lettered. All other
    events go back to the queue when the process ends.
    """

    def __init__(self, dependencies: Dependencies) -> None:
        self._dependencies = dependencies
        self._metrics = metrics = dependencies.inbound_metrics
        self._dead_letters: DeadLetterQueue
        self._consumer: Consumer[Delivered] = Consumer(
            topology.INBOUND,
            dependencies.confirming_broker,
            batch_size=BATCH_SIZE,
            missing=": run `allocation topology`",
            consuming=metrics.consuming.set,
            alive=lambda: heartbeat.beat(dependencies.settings.state_dir, NAME),
        )

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set."""
        self._stop = stop
        self._consumer.run(self, stop)

    def start(self, connection: Connection) -> None:
        """Wait for the tables of this version; while the database is down, `process` waits."""
        self._dead_letters = DeadLetterQueue(connection, topology.INBOUND)
        with suppress(SQLAlchemyError):
            wait_for_schema(self._dependencies.engine, self._consumer.wait, self._stop.is_set)

    def read(self, message: Delivered) -> Delivered:
        """Messages are read when they are processed."""
        return message

    def process(self, pending: deque[Delivered]) -> None:
        """Accept the commands of the next batch together; dead-letter invalid and failing ones."""
        for part, result in bisect(self._next_batch(pending), self._accept, _is_fault):
            if isinstance(result, Exception):
                self._dead_letter_failed(part[0], result)
            self._consumer.check_stop()

    def tick(self, queue_messages: int) -> None:
        """Nothing is due every second."""

    def _next_batch(self, pending: deque[Delivered]) -> Sequence[Asked]:
        asked: dict[object, Asked] = {}
        for _ in range(min(len(pending), BATCH_SIZE)):
            message = pending.popleft()
            try:
                command = inbound_events.read(message)
            except inbound_events.Inadmissible as problem:
                self._dead_letter(message, problem.reason, str(problem))
                continue
            if command.id in asked:
                # Only after the commit it is known whether this repeat has the same content.
                pending.appendleft(message)
                break
            asked[command.id] = _asked(message, command)
        return list(asked.values())

    def _accept(self, asked: Sequence[Asked]) -> None:
        """Commit the commands together, and acknowledge their messages.

        Waits while the database is down and keeps the messages: to return them would cost each of
        them one of the deliveries that the queue allows.
        """
        failures = 0
        while True:
            try:
                execution.accept_batch(
                    [each.command for each in asked], self._dependencies.unit_of_work()
                )
                break
            except (StorageUnavailable, ConcurrentUpdate) as error:
                failures += 1
                if isinstance(error, ConcurrentUpdate) and failures >= TRIES:
                    raise
                seconds = backoff.seconds(failures)
                log.warning(
                    "events can't be accepted now; retrying",
                    error=repr(error)[:500],
                    seconds=round(seconds, 1),
                )
                self._consumer.wait(seconds)
        for each in asked:
            each.message.ack()
        self._metrics.events.labels("accepted").inc(len(asked))
        tracing.end([each.span for each in asked])
        log.info("events were accepted", events=len(asked))

    def _dead_letter_failed(self, asked: Asked, error: Exception) -> None:
        asked.span.end(tracing.why(error))
        if isinstance(error, CommandConflict):
            self._dead_letter(asked.message, "conflict", str(error))
        else:
            self._dead_letter(
                asked.message,
                "failed",
                f"{type(error).__name__}: {error}",
                traceback="".join(traceback.format_exception(error))[-4000:],
                first=datetime.now(UTC).isoformat(),
            )

    def _dead_letter(self, message: Delivered, reason: str, error: str, **facts: object) -> None:
        with bound_contextvars(**inbound_events.names(message)):
            facts = {"reason": reason, "error": error[:1000], **facts}
            self._dead_letters.dead_letter(message, facts)
        self._metrics.events.labels("refused").inc()
        self._metrics.dead_lettered(topology.INBOUND_DEAD, reason)


def _is_fault(error: Exception) -> bool:
    """Whether an event of the batch is at fault."""
    return isinstance(error, (CommandConflict, ConcurrentUpdate, DBAPIError))


def _asked(message: Delivered, command: Message) -> Asked:
    """With the span in which the event is processed."""
    # While no spans are made, nothing reads the message for their names.
    names = inbound_events.names(message) if tracing.is_on() else {"type": "", "event_id": ""}
    about = (names["type"], names["event_id"], topology.INBOUND)
    span = tracing.message("process", *about, command.traceparent, command.correlation_id)
    return Asked(message, replace(command, traceparent=span.traceparent), span)
