"""The relay: sends what the outbox holds to the broker, and marks it once the broker has it."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

import structlog
from kombu import Connection

from allocation.adapters.metrics import RelayMetrics
from allocation.adapters.rabbitmq import topology
from allocation.adapters.rabbitmq.outbox_messages import messages
from allocation.adapters.sql import partitions
from allocation.adapters.sql.migrations import wait_for_schema
from allocation.adapters.sql.outbox import DUE_AT_ONCE, OutboxReader, only_reader
from allocation.bootstrap import Dependencies, build
from allocation.messaging import lifecycle
from allocation.messaging.outages import exchange_heartbeats, is_missing, work_through_outages
from allocation.messaging.outbox_relay import (
    BATCH,
    MARK_EVERY,
    OUTAGES,
    InFlight,
)
from allocation.messaging.publisher import publisher
from allocation.messaging.telemetry import heartbeat, logs, metrics_server, trace_context, tracing

log = structlog.get_logger(__name__)

NAME = "relay"
POLL = 0.5
"""Seconds between two looks at the outbox: notifications get lost, and none says what is due."""
BEAT = 1.0  # seconds between two signs of life
RESEND_AT_ONCE = 2000
"""Overdue commands that one check sends again, at most."""
LOOK_FOR_LOST = 10.0
"""Seconds between two checks for commands that the broker has lost."""


def main() -> None:
    """Relay until a signal comes."""
    dependencies = build()
    settings = dependencies.settings
    logs.configure(settings.log_format, settings.log_level)
    with tracing.making("allocation-relay", settings.broker_transport):
        run(dependencies, lifecycle.stop_signal())


def run(dependencies: Dependencies, stop: threading.Event) -> None:
    """Relay until `stop` is set; stands by while another relay is active, and outlives outages."""
    settings = dependencies.settings
    registry = dependencies.relay_metrics.registry
    metrics_server.serve(registry, settings.metrics_host, settings.metrics_port, "allocation")
    relay = Relay(dependencies, stop)
    work_through_outages(stop, dependencies.broker, relay.session, relay.on_outage, OUTAGES)


class Relay:
    """The only relay that is active, or one that stands by."""

    def __init__(self, dependencies: Dependencies, stop: threading.Event) -> None:
        self._settings = dependencies.settings
        self._engine = dependencies.engine
        self._metrics = dependencies.relay_metrics
        self._stop = stop

    def session(self, connection: Connection) -> float:
        """Relay on one connection, unless another relay is active; seconds until the next try."""
        state_dir = self._settings.state_dir
        heartbeat.beat(state_dir, NAME)

        def wait(seconds: float) -> None:
            heartbeat.beat(state_dir, NAME)
            self._stop.wait(seconds)

        wait_for_schema(self._engine, wait, self._stop.is_set)
        try:
            with only_reader(self._engine) as reader:
                if reader is None:
                    log.debug("another relay is active; standing by")
                else:
                    self._relay(reader, connection)
        finally:
            self._metrics.active.set(0)
        return POLL

    def on_outage(self, error: Exception, seconds: float) -> None:
        self._metrics.pauses.inc()
        missing = is_missing(error)
        log.log(
            logging.ERROR if missing else logging.WARNING,
            "the relay pauses"
            + ("; a queue is missing: run `allocation topology`" if missing else ""),
            error=str(error) or repr(error),
            seconds=round(seconds, 1),
        )

    def _relay(self, reader: OutboxReader, connection: Connection) -> None:
        """Relay until told to stop, or until the broker refuses something on this connection."""
        sender = publisher(connection, bind=topology.bind, require=topology.require)
        log.info("ready: relaying")
        self._metrics.active.set(1)
        in_flight = InFlight(reader, sender, messages, lambda row: row.sku, self._on_marked)
        resending = Resending(
            reader, connection, self._settings.resend_after, self._metrics, self._queues
        )
        beaten = looked = 0.0
        while not self._stop.is_set():
            if time.monotonic() - looked > POLL and reader.accept_due() < DUE_AT_ONCE:
                looked = time.monotonic()
            resending.look()
            if time.monotonic() - beaten > BEAT:
                heartbeat.beat(self._settings.state_dir, NAME)
                exchange_heartbeats(connection)
                beaten = time.monotonic()
            if in_flight.send() == BATCH:
                refused = in_flight.mark(most=BATCH)
            elif in_flight.is_mark_due:
                refused = in_flight.mark()
            else:
                reader.wait(MARK_EVERY if in_flight.rows else POLL)
                continue
            if refused:
                self._on_refused(refused)
                # A new connection is needed: after the loss of a cluster's node RabbitMQ may refuse
                # on a connection for minutes what it takes on the next one.
                return
        in_flight.mark(most=0)

    def _queues(self) -> list[str]:
        with self._engine.connect() as connection:
            known = partitions.generations(connection)
        return [queue for generation in known for queue in generation.queues] or [topology.COMMANDS]

    def _on_marked(self, rows: Sequence[Any], seconds: float) -> None:
        self._metrics.marked(((row.kind, row.name) for row in rows), seconds)

    def _on_refused(self, rows: Sequence[Any]) -> None:
        self._metrics.refused.inc(len(rows))
        log.error(
            "the broker accepted only some messages: a queue is full, missing or not bound;"
            " `allocation status` shows which, and `allocation topology` repairs a missing"
            " queue or binding",
            refused=len(rows),
            **names(rows[0]),
        )


class Resending:
    """Sends commands again that the broker has lost, such as by a purged or deleted queue.

    A command counts as lost only if it is overdue, and the queue holds fewer messages than commands
    are pending. So this never lengthens a backlog. If a command was not lost after all, the inbox
    deduplicates the second message.
    """

    def __init__(
        self,
        reader: OutboxReader,
        connection: Connection,
        after: float,
        metrics: RelayMetrics,
        queues: Callable[[], Sequence[str]] = lambda: [topology.COMMANDS],
    ) -> None:
        """`queues` returns the names of the queues that commands are in."""
        self._reader = reader
        self._connection = connection
        self._after = after
        self._metrics = metrics
        self._queues = queues
        self._every = min(LOOK_FOR_LOST, after / 2)
        self._looked = 0.0
        self._missing = 0

    def look(self) -> None:
        """Send lost commands again, unless the last check was too recent."""
        if time.monotonic() - self._looked < self._every:
            return
        self._looked = time.monotonic()
        before, self._missing = self._missing, self._count_missing()
        # Missing in both checks: during a single one, workers may hold the last messages.
        most = min(before, self._missing, RESEND_AT_ONCE)
        if most and (sent := self._reader.send_again(self._after, most)):
            self._metrics.resent.inc(sent)
            log.warning(
                "overdue commands are published again: the broker holds fewer than are pending",
                commands=sent,
                queue=topology.COMMANDS,
            )

    def _count_missing(self) -> int:
        """How many pending commands are in no queue; 0 while none is overdue."""
        if not self._reader.overdue(self._after):
            return 0
        awaited = self._reader.awaited()
        messages = consumers = 0
        for name in self._queues():
            queued = topology.queued(self._connection, name)
            if queued is None:
                log.error(
                    "commands are overdue, and their queue is missing: run `allocation topology`",
                    queue=name,
                )
                return 0
            messages += queued.messages
            consumers += queued.consumers
        return missing(awaited, topology.Queued(messages, consumers))


def missing(awaited: int, queued: topology.Queued) -> int:
    """How many of the `awaited` messages are not in the queue, as far as that is certain.

    While messages are ready, consumers have others in flight, whose number is not known.
    """
    if queued.messages and queued.consumers:
        return 0
    return max(0, awaited - queued.messages)


def names(row: Any) -> dict[str, str]:
    """What a line about a row of the outbox names it by."""
    known = (
        {"event_id": row.id, "type": row.name}
        if row.kind == "event"
        else {"command_id": row.id, "command": row.name}
    )
    if row.sku is not None:
        known["sku"] = row.sku
    trace_id = trace_context.trace_id(row.traceparent, UUID(row.correlation_id))
    return known | {"trace_id": trace_id}
