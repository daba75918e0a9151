"""The inbound adapter: what other systems tell as CloudEvents is accepted as commands."""

import logging
import threading
import time
import traceback
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime

import structlog
from kombu import Connection, Consumer
from kombu.message import Message as Delivered
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from allocation import bootstrap
from allocation.adapters import metrics
from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql.migrations import wait_for_schema
from allocation.contract import inbound_events
from allocation.messaging import backoff, lifecycle
from allocation.messaging.dead_letters import DeadLetterPublisher
from allocation.messaging.telemetry import heartbeat, metrics_server, tracing
from allocation.service_layer import execution
from allocation.service_layer.unit_of_work import (
    CommandConflict,
    ConcurrentUpdate,
    Message,
    StorageUnavailable,
)

log = structlog.get_logger(__name__)

NAME = "inbound"
LIMIT = 100  # events that are accepted by one transaction, at most
PREFETCH = 2 * LIMIT
TRIES = 5  # while others change the same rows
TICK = 1.0  # seconds; the longest wait for events
GATHER = 0.02  # seconds at most to read what has come in
MOMENT = 0.001  # seconds in which nothing came in: there is no more


@dataclass(frozen=True, slots=True)
class Asked:
    """A command, and the message that asked for it."""

    message: Delivered
    command: Message
    span: tracing.Span


def run(stop: threading.Event) -> None:
    """Take what other systems tell until `stop` is set; outlives outages."""
    settings = bootstrap.settings()
    state_dir = settings.state_dir
    engine = bootstrap.engine(bootstrap.settings().database_url)
    metrics_server.serve(
        metrics.inbound().registry, settings.metrics_host, settings.metrics_port, "allocation"
    )
    mover = DeadLetterPublisher(bootstrap.confirming_broker, metrics.inbound().dead_lettered)
    failures = 0
    while not stop.is_set():
        heartbeat.beat(state_dir, NAME)
        connection = bootstrap.broker()
        outages = (*connection.connection_errors, *connection.channel_errors, OSError)
        began = time.monotonic()
        try:
            with suppress(SQLAlchemyError):  # `Inbound` itself waits for a database that is away
                wait_for_schema(engine, lifecycle.alive_until(stop, state_dir, NAME), stop.is_set)
            Inbound(connection, mover, stop).consume()
        except outages as error:
            connection.collect()  # without a goodbye, which may have no answer
            failures = 1 if time.monotonic() - began > 10 else failures + 1
            seconds = backoff.seconds(failures)
            missing = str(getattr(error, "reply_code", "")) == "404"
            log.log(
                logging.ERROR if missing else logging.WARNING,
                f"{topology.INBOUND} is not being consumed"
                + ("; it is missing: run `allocation topology`" if missing else ""),
                error=str(error) or repr(error),
                seconds=round(seconds, 1),
            )
            stop.wait(seconds)
        finally:
            metrics.inbound().consuming.set(0)
            connection.release()


class Inbound:
    """The queue's consumer on one connection.

    An event is acknowledged once its command is committed, or once it is among the dead letters.
    What is neither when this ends goes back to the queue.
    """

    def __init__(
        self, connection: Connection, mover: DeadLetterPublisher, stop: threading.Event
    ) -> None:
        self._connection = connection
        self._mover = mover
        self._stop = stop
        self._arrived: deque[Delivered] = deque()

    def consume(self) -> None:
        """Accept events until asked to stop. Raises the connection's errors, and the channel's."""
        channel = self._connection.channel()
        channel.auto_decode = False  # the body as it came: whatever it says of itself
        channel.queue_declare(topology.INBOUND, passive=True)
        with Consumer(
            channel,
            [topology.inbound_queue(declared=True)],
            # Not worked on where it comes in: each wait for the broker would let the next one in.
            on_message=self._arrived.append,
            on_decode_error=lambda message, _error: self._arrived.append(message),
            prefetch_count=PREFETCH,
            auto_declare=False,
        ):
            log.info(f"ready: consuming {topology.INBOUND}")
            metrics.inbound().consuming.set(1)
            while not self._stop.is_set():
                self._gather()
                self._accept(self._admit())
                lifecycle.beat(self._connection, bootstrap.settings().state_dir, NAME)

    def _gather(self) -> None:
        """Read what has come in; wait only when there is nothing at all to do."""
        try:
            self._connection.drain_events(timeout=MOMENT if self._arrived else TICK)
            began = time.monotonic()
            while len(self._arrived) < LIMIT and time.monotonic() - began < GATHER:
                self._connection.drain_events(timeout=MOMENT)
        except TimeoutError:
            pass

    def _admit(self) -> Sequence[Asked]:
        """What may be accepted together of what has arrived; what is no event is set aside."""
        asked: dict[object, Asked] = {}
        began = time.monotonic()
        while self._arrived and len(asked) < LIMIT and time.monotonic() - began < TICK:
            message = self._arrived.popleft()
            try:
                command = inbound_events.read(message)
            except inbound_events.Inadmissible as problem:
                self._set_aside(message, problem.reason, str(problem))
                continue
            if command.id in asked:
                # Only what is committed can tell whether this one says the same.
                self._arrived.appendleft(message)
                break
            asked[command.id] = _asked(message, command)
        return list(asked.values())

    def _accept(self, asked: Sequence[Asked]) -> None:
        """Commit the commands together, and acknowledge their messages; the guilty one alone.

        Waits while the database is away, with all of them in hand: to return them would cost each
        of them one of the deliveries that the queue allows.
        """
        failures = 0
        while asked and not self._stop.is_set():
            try:
                execution.accept_batch([each.command for each in asked], bootstrap.unit_of_work())
            except (StorageUnavailable, ConcurrentUpdate) as error:
                failures += 1
                if isinstance(error, ConcurrentUpdate) and failures >= TRIES:
                    self._part(asked, error)
                    return
                seconds = backoff.seconds(failures)
                log.warning("events wait", error=repr(error)[:500], seconds=round(seconds, 1))
                self._stop.wait(seconds)
                lifecycle.beat(self._connection, bootstrap.settings().state_dir, NAME)
            except (CommandConflict, DBAPIError) as error:
                self._part(asked, error)
                return
            else:
                for each in asked:
                    each.message.ack()
                metrics.inbound().events.labels("accepted").inc(len(asked))
                tracing.end([each.span for each in asked])
                log.info("events were accepted", events=len(asked))
                return

    def _part(self, asked: Sequence[Asked], error: Exception) -> None:
        """One of them fails: in the end it stands alone, and the others are accepted without it."""
        if len(asked) > 1:
            middle = len(asked) // 2
            self._accept(asked[:middle])
            self._accept(asked[middle:])
            return
        asked[0].span.end(tracing.why(error))
        if isinstance(error, CommandConflict):
            self._set_aside(asked[0].message, "conflict", str(error))
        else:
            self._set_aside(
                asked[0].message,
                "failed",
                f"{type(error).__name__}: {error}",
                traceback="".join(traceback.format_exception(error))[-4000:],
                first=datetime.now(UTC).isoformat(),
            )

    def _set_aside(self, message: Delivered, reason: str, error: str, **facts: object) -> None:
        names = inbound_events.names(message)
        log.error(
            "an event goes to the dead-letter queue", reason=reason, error=error[:1000], **names
        )
        metrics.inbound().events.labels("refused").inc()
        facts = {"reason": reason, "error": error[:1000], **facts}
        if self._mover.dead_letter(message, topology.INBOUND_DEAD, facts):
            message.ack()
        else:
            # The broker then moves it by itself, without the reason.
            message.reject()


def _asked(message: Delivered, command: Message) -> Asked:
    """With the span in which the event is taken."""
    # While no spans are made nobody reads the message for their names.
    names = inbound_events.names(message) if tracing.is_on() else {"type": "", "event_id": ""}
    about = (names["type"], names["event_id"], topology.INBOUND)
    span = tracing.message("process", *about, command.traceparent, command.correlation_id)
    return Asked(message, replace(command, traceparent=span.traceparent), span)
