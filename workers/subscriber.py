"""The kit that every subscriber shares: consume, retry, dead-letter, and outlive outages."""

import threading
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, datetime

import structlog
from kombu import Connection, Consumer, Queue

from allocation.messaging import backoff
from allocation.messaging.cloudevents import Envelope
from allocation.messaging.connection import connect
from allocation.messaging.database import Outage, is_outage
from allocation.messaging.dead_letters import DeadLetterQueue
from allocation.messaging.telemetry import heartbeat, tracing
from allocation.messaging.telemetry.subscriber_metrics import SubscriberMetrics
from workers import logs
from workers.deliveries import LIMIT, Batch, Delivery, Hand, Spoilt, acknowledge
from workers.inbox import HeldFailed, Inbox
from workers.settings import Settings

log = structlog.get_logger(__name__)

PREFETCH = 2 * LIMIT
"""While one batch is worked on the next one comes in."""
TRIES = 5
TICK = 1.0  # seconds
GATHER = 0.02
"""Seconds at most to read what has come in: events that trickle in don't wait for each other."""
MOMENT = 0.001
"""Seconds in which nothing came in: there is no more. With none at all py-amqp may spin."""
BACKLOG = 1000
"""With more in the queue than this, an event that seems to be missing may well be among them."""


class _Stopped(Exception):
    """Asked to stop between two tries: the event goes back to the queue."""


class Subscriber:
    """Gives every event of one queue to the inbox, and acknowledges it when that has committed.

    What is no readable event, and what fails five times, goes to `<queue>.dead` with the reason in
    its headers. While the database or the broker is away nothing is acknowledged or given up.
    """

    def __init__(
        self,
        settings: Settings,
        queue: str,
        parse: Callable[[Envelope], object],
        inbox: Inbox,
        figures: SubscriberMetrics,
        linger: float = 0.0,
    ) -> None:
        """`parse` raises Unreadable at an event that must not be noted as received.

        An event waits `linger` seconds for others, so that they cost one transaction: the choice of
        a subscriber for whom nobody waits.
        """
        self._settings = settings
        self._queue = queue
        self._parse = parse
        self._inbox = inbox
        self._figures = figures
        self._linger = linger
        self._ticked = 0.0
        self._stop = threading.Event()
        self._dead: DeadLetterQueue

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set, connecting again for ever; finishes the event in hand."""
        self._stop = stop
        failures = 0
        while not stop.is_set():
            connection = connect(
                self._settings.allocation_broker_url, self._settings.broker_transport, confirm=True
            )
            outages = (
                *Outage,
                OSError,
                *connection.connection_errors,
                *connection.channel_errors,
            )
            begun = time.monotonic()
            try:
                self._consume(connection)
            except _Stopped:
                return
            except outages as error:
                connection.collect()  # without a goodbye, which may have no answer
                failures = 1 if time.monotonic() - begun > 10 else failures + 1
                pause = backoff.seconds(failures)
                missing = str(getattr(error, "reply_code", "")) == "404"
                log.warning(
                    f"{self._queue} is not being consumed"
                    + ("; it is missing: run `allocation topology`" if missing else ""),
                    error=str(error) or repr(error),
                    retry_in_seconds=round(pause, 1),
                )
                self._beat()
                stop.wait(pause)
            finally:
                self._figures.consuming.set(0)
                connection.release()

    def _beat(self) -> None:
        heartbeat.beat(self._settings.allocation_state_dir, self._queue.partition(".")[0])

    def _consume(self, connection: Connection) -> None:
        self._dead = DeadLetterQueue(connection, self._queue)
        channel = connection.channel()
        # Passive: a subscriber needs no right to configure the broker.
        channel.queue_declare(self._queue, passive=True)
        # First the database: to fetch events without it would cost each of them one of the
        # deliveries that the queue allows, until the broker takes them for poison.
        self._inbox.resume()
        queue = Queue(self._queue, no_declare=True)
        # What comes is not worked on where it comes in: to wait there for the broker's confirm of a
        # dead letter would let the next message in, and so on, one inside the other.
        hand = Hand(self._parse)
        with Consumer(
            channel,
            [queue],
            on_message=hand.receive,
            on_decode_error=hand.receive,
            prefetch_count=PREFETCH,
            auto_declare=False,
        ):
            log.info(f"ready: consuming {self._queue}")
            self._figures.consuming.set(1)
            while not self._stop.is_set():
                self._gather(connection, hand)
                began = time.monotonic()
                while not (hand.empty or self._stop.is_set()) and time.monotonic() - began < TICK:
                    self._take(hand)
                if connection.heartbeat:
                    connection.heartbeat_check()
                if time.monotonic() - self._ticked > TICK:
                    waiting = channel.queue_declare(self._queue, passive=True).message_count
                    self._figures.queue_messages.set(waiting)
                    if waiting > BACKLOG:
                        self._inbox.still_catching_up()
                    self._persist(self._inbox.give_up_waiting)
                    self._beat()
                    self._ticked = time.monotonic()

    def _gather(self, connection: Connection, hand: Hand) -> None:
        """Read what has come in, up to a batch; wait only when there is nothing at all to do."""
        try:
            connection.drain_events(timeout=TICK if hand.empty else MOMENT)
            began = time.monotonic()
            while not hand.full and (left := began + self._linger - time.monotonic()) > 0:
                with suppress(TimeoutError):
                    connection.drain_events(timeout=left)
            began = time.monotonic()
            while not hand.full and time.monotonic() - began < GATHER:
                connection.drain_events(timeout=MOMENT)
        except TimeoutError:
            pass

    def _take(self, hand: Hand) -> None:
        match hand.take():
            case Spoilt(message, problem):
                self._dead.dead_letter(
                    message, {"reason": problem.reason, "error": _short(problem)}
                )
                self._figures.invalid(problem.reason)
            case [delivery]:
                self._take_alone(delivery)
            case batch:
                self._take_together(batch, hand)

    def _take_together(self, batch: Batch, hand: Hand) -> None:
        spans = [self._span(delivery.event) for delivery in batch] if tracing.is_on() else []
        try:
            self._give(batch)
        except Exception as error:
            if is_outage(error):
                raise  # stop consuming until the database is back
            log.warning("a batch failed: trying it in halves", events=len(batch), error=repr(error))
            hand.put_back_in_halves(batch)
        else:
            acknowledge(batch)
            tracing.end(spans)

    def _take_alone(self, delivery: Delivery) -> None:
        with logs.about(delivery.event):
            span = self._span(delivery.event)
            failure = self._persist(lambda: self._give([delivery]), delivery.event)
            span.end(str(failure["error"]) if failure else None)
            if failure:
                self._dead.dead_letter(delivery.message, failure)
                self._figures.dead(delivery.event)
            else:
                acknowledge([delivery])

    def _span(self, event: Envelope) -> tracing.Span:
        return tracing.event("process", event.type, str(event.id), self._queue, event.body)

    def _give(self, batch: Batch) -> None:
        if any(delivery.replayed for delivery in batch):
            self._inbox.still_catching_up()
        oldest = {delivery.event.id for delivery in batch if delivery.oldest}
        events = [delivery.event for delivery in batch]
        began = time.perf_counter()
        self._figures.taken(events, self._inbox.take(events, oldest), began)

    def _persist(
        self, work: Callable[[], None], event: Envelope | None = None
    ) -> dict[str, object] | None:
        """Do the work, again where it fails; None once it is done, else what is known of it.

        An event that had waited and fails now is dead-lettered by itself, and the work done after.
        """
        first = datetime.now(UTC)
        attempt = 0
        while True:
            attempt += 1
            try:
                work()
                return None
            except Exception as error:
                if is_outage(error):
                    raise  # stop consuming until the database is back
                held = error.event if isinstance(error, HeldFailed) else None
                cause = error.__cause__ if held else error
                which = {"held_event": str(held.id)} if held else {}
                log.warning("an event failed", attempt=attempt, error=repr(cause), **which)
                if attempt < TRIES:
                    if failing := held or event:
                        self._figures.retried(failing)
                    if self._stop.wait(0.05 * 2**attempt):
                        raise _Stopped from error
                    continue
                failure: dict[str, object] = {
                    "reason": "failed",
                    "error": f"{type(cause).__name__}: {_short(cause)}",
                    "traceback": traceback.format_exc()[-4000:],
                    "attempts": attempt,
                    "first": first.isoformat(),
                    "last": datetime.now(UTC).isoformat(),
                }
                if held is None:
                    return failure
                with logs.about(held):
                    self._dead.dead_letter_event(held.body, failure)
                    self._figures.dead(held)
                self._inbox.forget(held)
                first, attempt = datetime.now(UTC), 0


def _short(error: object) -> str:
    return str(error)[:1000]
