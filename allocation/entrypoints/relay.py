"""The relay: sends what the outbox holds to the broker, and marks it once the broker has it."""

import json
import logging
import threading
import time
from collections.abc import Iterable, Sequence
from typing import Any
from uuid import UUID

import structlog
from kombu import Connection
from sqlalchemy.exc import DBAPIError

from allocation import bootstrap
from allocation.adapters import metrics
from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql.migrations import wait_for_schema
from allocation.adapters.sql.outbox import DUE_AT_ONCE, OutboxReader, only_reader
from allocation.entrypoints.worker.app import app
from allocation.messaging import backoff, lifecycle
from allocation.messaging.publisher import Outgoing, Publisher, publisher
from allocation.messaging.telemetry import heartbeat, metrics_server, trace_context, tracing

log = structlog.get_logger(__name__)

BATCH = 500
POLL = 0.5  # seconds between two looks: wake-up calls may get lost, and nobody calls what is due
MARK_EVERY = 0.05  # seconds
BEAT = 1.0  # seconds between two signs of life
STEADY = 10.0
"""Seconds of relaying after which the backoff starts anew at the next outage."""
RESEND_AT_ONCE = 2000
"""Overdue commands that one check sends again, at most."""
LOOK_FOR_LOST = 10.0
"""Seconds between two checks for commands that the broker has lost."""


def run(stop: threading.Event) -> None:
    """Relay until `stop` is set; stands by while another relay is active, and outlives outages."""
    engine = bootstrap.engine(bootstrap.settings().database_url)
    settings = bootstrap.settings()
    state_dir = settings.state_dir
    metrics_server.serve(
        metrics.relay().registry, settings.metrics_host, settings.metrics_port, "allocation"
    )
    failures = 0
    while not stop.is_set():
        heartbeat.beat(state_dir, "relay")
        began = time.monotonic()
        connection = bootstrap.broker()
        outages = (DBAPIError, *connection.connection_errors, *connection.channel_errors, OSError)
        try:
            wait_for_schema(engine, lifecycle.alive_until(stop, state_dir, "relay"), stop.is_set)
            with only_reader(engine) as reader:
                if reader is None:
                    log.debug("another relay is active; standing by")
                    stop.wait(POLL)
                    continue
                sender = publisher(connection)
                log.info("ready: relaying")
                began = time.monotonic()
                metrics.relay().active.set(1)
                _relay(reader, sender, connection, stop)
        except outages as error:
            connection.collect()  # without a goodbye, which may have no answer
            failures = 1 if time.monotonic() - began > STEADY else failures + 1
            metrics.relay().pauses.inc()
            pause = backoff.seconds(failures)
            missing = str(getattr(error, "reply_code", "")) == "404"
            log.log(
                logging.ERROR if missing else logging.WARNING,
                "the relay pauses"
                + ("; a queue is missing: run `allocation topology`" if missing else ""),
                error=str(error) or repr(error),
                seconds=round(pause, 1),
            )
            stop.wait(pause)
        finally:
            metrics.relay().active.set(0)
            connection.release()


def _relay(
    reader: OutboxReader, publisher: Publisher, connection: Connection, stop: threading.Event
) -> None:
    """Relay until `stop` is set, or until the broker refuses something on this connection."""
    flight = Flight(reader, publisher)
    resending = Resending(reader, connection, bootstrap.settings().resend_after)
    beaten = looked = 0.0
    while not stop.is_set():
        if time.monotonic() - looked > POLL and reader.accept_due() < DUE_AT_ONCE:
            looked = time.monotonic()
        resending.look()
        if time.monotonic() - beaten > BEAT:
            lifecycle.beat(connection, bootstrap.settings().state_dir, "relay")
            beaten = time.monotonic()
        if flight.send() == BATCH:
            refused = flight.mark(most=BATCH)
        elif flight.due:
            refused = flight.mark()
        else:
            reader.wait(MARK_EVERY if flight.rows else POLL)
            continue
        if refused:
            metrics.relay().refused.inc(len(refused))
            log.error(
                "the broker took only a part: a queue is full, or missing, or not bound;"
                " `allocation status` shows which, and `allocation topology` mends the latter two",
                refused=len(refused),
                **names(refused[0]),
            )
            stop.wait(POLL)
            # A new one: after the loss of a cluster's node RabbitMQ may refuse on a connection for
            # minutes what it takes on the next one.
            return
    flight.mark(most=0)


class Flight:
    """Rows that were sent and are not marked yet, in their order.

    What was committed is sent at once, and marked when the broker has it: for many rows together,
    as that costs a step of the broker and one of the database. Dying in between means that they are
    sent again: at least once.
    """

    def __init__(self, reader: OutboxReader, publisher: Publisher) -> None:
        self.rows: list[Any] = []
        self._reader = reader
        self._publisher = publisher
        self._told: dict[str, bool] = {}
        self._marked = 0.0
        self._sent_at: dict[str, float] = {}

    @property
    def due(self) -> bool:
        """It is time to mark what was confirmed."""
        return bool(self.rows) and time.monotonic() - self._marked > MARK_EVERY

    def send(self) -> int:
        """Send the oldest rows that are pending; how many there were, of BATCH at most."""
        rows = self._reader.pending(BATCH, besides=[row.position for row in self.rows])
        if rows and not self.rows:
            self._marked = time.monotonic()
        self._sent_at |= dict.fromkeys((row.id for row in rows), time.monotonic())
        spans = [span(row) for row in rows]
        with tracing.ending(spans):
            self._publisher.send(
                [outgoing(row, each.traceparent) for row, each in zip(rows, spans, strict=True)]
            )
        self.rows += rows
        return len(rows)

    def mark(self, most: int | None = None) -> Sequence[Any]:
        """Mark those that the broker has; returns what it refused. `most` may stay unconfirmed."""
        self._told |= self._publisher.settle(len(self.rows) if most is None else most)
        if not all(self._told.values()):
            self._told |= self._publisher.settle(0)
        kept = {row_id for row_id, is_kept in self._told.items() if is_kept}
        refused = [row for row in self.rows if not self._told.get(row.id, True)]
        done = in_order(self.rows, kept)
        self._reader.mark_sent([row.position for row in done])
        if done:
            waited = time.monotonic() - self._sent_at[done[0].id]
            metrics.relay().marked(((row.kind, row.name) for row in done), waited)
        for row in done:
            del self._told[row.id], self._sent_at[row.id]
        marked = {row.id for row in done}
        self.rows = [row for row in self.rows if row.id not in marked]
        self._marked = time.monotonic()
        return refused


class Resending:
    """Sends commands again that the broker has lost, such as by a purged or deleted queue.

    A command counts as lost only if it is overdue, and the queue holds fewer messages than commands
    are pending. So this never lengthens a backlog. If a command was not lost after all, the inbox
    deduplicates the second message.
    """

    def __init__(self, reader: OutboxReader, connection: Connection, after: float) -> None:
        self._reader = reader
        self._connection = connection
        self._after = after
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
            metrics.relay().resent.inc(sent)
            log.warning(
                "overdue commands are sent again: the broker holds fewer than are pending",
                commands=sent,
                queue=topology.COMMANDS,
            )

    def _count_missing(self) -> int:
        """How many pending commands are in no queue; 0 while none is overdue."""
        if not self._reader.overdue(self._after):
            return 0
        awaited = self._reader.awaited()
        queued = topology.queued(self._connection, topology.COMMANDS)
        if queued is None:
            log.error(
                "commands are overdue, and their queue is missing: run `allocation topology`",
                queue=topology.COMMANDS,
            )
            return 0
        return missing(awaited, queued)


def missing(awaited: int, queued: topology.Queued) -> int:
    """How many of the `awaited` messages are not in the queue, as far as that is certain.

    While messages are ready, consumers have others in flight, whose number is not known.
    """
    if queued.messages and queued.consumers:
        return 0
    return max(0, awaited - queued.messages)


def in_order(rows: Iterable[Any], confirmed: set[str]) -> Sequence[Any]:
    """The confirmed rows, less those that overtook an unconfirmed one of their sku.

    Where that one was refused they are sent again behind it: so each sku's events come in order at
    least once.
    """
    done, held = [], set()
    for row in rows:
        if row.id in confirmed and row.sku not in held:
            done.append(row)
        elif row.sku is not None:
            held.add(row.sku)
    return done


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


def span(row: Any) -> tracing.Span:
    """The span in which a row is published."""
    destination = topology.EVENTS if row.kind == "event" else topology.COMMANDS
    about = (row.name, row.id, destination, row.traceparent, row.correlation_id)
    return tracing.message("publish", *about)


def outgoing(row: Any, traceparent: str | None) -> Outgoing:
    """The message that a row of the outbox is: a Celery task, or a CloudEvent to the fanout.

    The row's ids are text, and its body is JSON text. `traceparent` names the span that sends it.
    """
    if row.kind == "event":
        return Outgoing(
            id=row.id,
            exchange=topology.EVENTS,
            routing_key="",
            body=trace_context.in_event(row.body, traceparent),
            content_type="application/cloudevents+json",
        )
    task = app.amqp.as_task_v2(
        row.id,
        row.name,
        kwargs=json.loads(row.body),
        root_id=row.correlation_id,
        parent_id=row.causation_id,
        ignore_result=True,
    )
    return Outgoing(
        id=row.id,
        exchange=topology.COMMANDS,
        routing_key=topology.COMMANDS,
        body=json.dumps(task.body),
        content_type="application/json",
        headers=task.headers | ({"traceparent": traceparent} if traceparent else {}),
        properties=task.properties,
    )
