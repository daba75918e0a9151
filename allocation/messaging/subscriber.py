"""The kit for subscribers: the effects of each event, once and in order, through outages.

A subscriber says what an event means (`parse`) and what it does to the subscriber's own database
(`apply`). The kit does the rest: it consumes the queue in batches, deduplicates and reorders
(`resequencer`), commits events and effects together, acknowledges after the commit, retries,
isolates a failing event by bisection, and dead-letters what can't be processed, with the reason.
docs/subscriber-kit.md has a complete example.
"""

import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import structlog
from kombu import Connection, Exchange, Queue
from kombu.message import Message
from structlog.contextvars import bound_contextvars

from allocation.messaging import backoff
from allocation.messaging.bisection import bisect
from allocation.messaging.cloudevents import Envelope, Unreadable, read
from allocation.messaging.consumer import Consumer
from allocation.messaging.database import Outage, is_outage
from allocation.messaging.dead_letters import LARGEST_BODY, DeadLetterQueue
from allocation.messaging.resequencer import HeldFailed, Resequencer
from allocation.messaging.telemetry import tracing
from allocation.messaging.telemetry.subscriber_metrics import SubscriberMetrics

log = structlog.get_logger(__name__)

BATCH_SIZE = 200
"""Events of one transaction at most."""
TRIES = 5
"""Times that an event is tried before it is dead-lettered."""
LONGEST_BACKOFF = 0.8  # seconds; all other events wait meanwhile
BACKLOG = 1000
"""With more messages than this in the queue, a missing event may be one of them."""
MANY_DELIVERIES = 2
"""An event that was redelivered this often is processed alone, as it may have killed a consumer."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """An event, and the message that brought it."""

    message: Message
    event: Envelope

    @property
    def replayed(self) -> bool:
        """Whether `allocation replay` sent it again."""
        return bool(self._header("x-replay"))

    @property
    def oldest(self) -> bool:
        """Whether it is the first event of its subject that `allocation replay` sends."""
        return self._header("x-replay") == "first"

    @property
    def redelivered_often(self) -> bool:
        """Whether consumers returned it, or died, MANY_DELIVERIES times."""
        times = self._header("x-delivery-count")
        return isinstance(times, int) and times >= MANY_DELIVERIES

    def _header(self, name: str) -> object:
        return (self.message.headers or {}).get(name)


@dataclass(frozen=True, slots=True)
class InvalidMessage:
    """A message that the subscriber can't read as an event."""

    message: Message
    problem: Unreadable


Batch = Sequence[Delivery]


def read_delivery(
    message: Message, parse: Callable[[Envelope], object]
) -> Delivery | InvalidMessage:
    """Read a message; `parse` raises Unreadable for an event that must not count as received."""
    try:
        if message.errors:
            raise Unreadable(f"the message can't be decoded: {message.errors[0][1]}")
        if len(message.body or b"") > LARGEST_BODY:
            raise Unreadable(f"the body has {len(message.body)} bytes, more than {LARGEST_BODY}")
        event = read(message.body, message.content_type)
        event.parsed(parse)
    except Unreadable as problem:
        return InvalidMessage(message, problem)
    return Delivery(message, event)


def take_batch(pending: deque[Delivery | InvalidMessage]) -> Batch | InvalidMessage:
    """Take the next events that may be processed together, or the next invalid message."""
    first = pending.popleft()
    if isinstance(first, InvalidMessage):
        return first
    batch = [first]
    alone = first.redelivered_often
    while pending and len(batch) < BATCH_SIZE and not alone:
        following = pending[0]
        if isinstance(following, InvalidMessage) or following.redelivered_often:
            break
        batch.append(following)
        pending.popleft()
    return batch


def acknowledge(batch: Batch) -> None:
    """Acknowledge a batch; all earlier messages of the channel must be settled already."""
    last = batch[-1].message
    if isinstance(last.delivery_tag, int):  # RabbitMQ acknowledges all up to this number
        last.ack(multiple=True)
        return
    for delivery in batch:
        delivery.message.ack()


def declare_queue(connection: Connection, queue: str, exchange: str) -> None:
    """Declare `queue`, bound to the existing fanout `exchange`, and `<queue>.dead`.

    Both are quorum queues. The broker's user needs to configure, write and read `queue` and
    `<queue>.dead`, and to read `exchange`.
    """
    dead = Exchange(f"{queue}.dead", type="fanout", durable=True)
    quorum = {"x-queue-type": "quorum"}
    limits = {
        "x-dead-letter-exchange": dead.name,
        # A message that kills its consumer again and again is dead-lettered, too.
        "x-delivery-limit": 20,
        # A dead letter leaves this queue when the other one has it. The overflow is required for
        # this strategy; without a length limit nothing overflows.
        "x-dead-letter-strategy": "at-least-once",
        "x-overflow": "reject-publish",
    }
    # Passive: declared by its owner, and only looked up here.
    source = Exchange(exchange, type="fanout", durable=True, passive=True)
    with connection.channel() as channel:
        Queue(dead.name, dead, queue_arguments=quorum)(channel).declare()
        Queue(queue, source, queue_arguments=quorum | limits)(channel).declare()


class Subscriber:
    """Passes the events of one queue to a resequencer, and acknowledges them after its commit.

    Invalid messages, and events that fail TRIES times, go to the exchange `<queue>.dead` with the
    reason in their headers. While the database or the broker is down, no event is acknowledged or
    dead-lettered.
    """

    def __init__(
        self,
        queue: str,
        connect: Callable[[], Connection],
        parse: Callable[[Envelope], object],
        resequencer: Resequencer,
        metrics: SubscriberMetrics,
        *,
        linger: float = 0.0,
        declare: Callable[[Connection], object] | None = None,
        publish: Callable[[Connection], object] = lambda connection: None,
        missing: str = "",
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        """`parse` raises Unreadable for an event that must not count as received.

        `linger`: seconds that an event waits for others, which makes transactions fewer and larger.
        `declare` and `missing` are those of Consumer. `publish` is called after each batch, and
        every second, to publish the events that effects put into an outbox; if it fails, all
        messages are delivered again. `alive` is called every second.
        """
        self._queue = queue
        self._parse = parse
        self._resequencer = resequencer
        self._metrics = metrics
        self._publish = publish
        self._consumer: Consumer[Delivery | InvalidMessage] = Consumer(
            queue,
            connect,
            batch_size=BATCH_SIZE,
            linger=linger,
            outages=Outage,
            declare=declare,
            missing=missing,
            consuming=metrics.consuming.set,
            alive=alive,
        )
        self._connection: Connection
        self._dead: DeadLetterQueue

    def run(self, stop: threading.Event) -> None:
        """Consume until `stop` is set; reconnects after outages, and finishes the current batch."""
        self._consumer.run(self, stop)

    def start(self, connection: Connection) -> None:
        self._connection = connection
        self._dead = DeadLetterQueue(connection, self._queue)
        self._resequencer.resume()

    def read(self, message: Message) -> Delivery | InvalidMessage:
        return read_delivery(message, self._parse)

    def process(self, pending: deque[Delivery | InvalidMessage]) -> None:
        """Process the next batch, or dead-letter the next invalid message."""
        batch = take_batch(pending)
        if isinstance(batch, InvalidMessage):
            problem = batch.problem
            details = {"reason": problem.reason, "error": _short(problem)}
            self._dead.dead_letter(batch.message, details)
            self._metrics.invalid(problem.reason)
            return
        parts = bisect(batch, self._commit_together, fails=lambda error: not is_outage(error))
        for part, _ in parts:
            if len(part) == 1:
                self._process_alone(part[0])
            else:
                acknowledge(part)
            self._consumer.check_stop()
        self._publish(self._connection)

    def tick(self, queue_messages: int) -> None:
        """Go on without events that have been missing for too long."""
        self._metrics.queue_messages.set(queue_messages)
        if queue_messages > BACKLOG:
            self._resequencer.still_catching_up()
        self._with_retries(self._resequencer.give_up_waiting)
        self._publish(self._connection)

    def _commit_together(self, part: Batch) -> None:
        """Commit the part; a single event is left to `_process_alone`, which retries it."""
        if len(part) > 1:
            spans = [self._span(delivery.event) for delivery in part] if tracing.is_on() else []
            self._commit(part)
            tracing.end(spans)

    def _process_alone(self, delivery: Delivery) -> None:
        with bound_contextvars(**delivery.event.log_fields()):
            span = self._span(delivery.event)
            failure = self._with_retries(lambda: self._commit([delivery]), delivery.event)
            span.end(str(failure["error"]) if failure else None)
            if failure:
                self._dead.dead_letter(delivery.message, failure)
                self._metrics.dead(delivery.event)
            else:
                acknowledge([delivery])

    def _span(self, event: Envelope) -> tracing.Span:
        return tracing.event("process", event.type, str(event.id), self._queue, event.body)

    def _commit(self, batch: Batch) -> None:
        if any(delivery.replayed for delivery in batch):
            self._resequencer.still_catching_up()
        oldest = {delivery.event.id for delivery in batch if delivery.oldest}
        events = [delivery.event for delivery in batch]
        started = time.perf_counter()
        self._metrics.taken(events, self._resequencer.take(events, oldest), started)

    def _with_retries(
        self, work: Callable[[], None], event: Envelope | None = None
    ) -> dict[str, object] | None:
        """Do the work, with retries; returns None, or the headers of the dead letter on failure.

        A held event that fails is dead-lettered here, and the work then starts anew.
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
                    raise  # the consumer connects again once the database is back
                held = error.event if isinstance(error, HeldFailed) else None
                cause = error.__cause__ if held else error
                which = {"held_event": str(held.id)} if held else {}
                log.warning("an event failed", attempt=attempt, error=repr(cause), **which)
                if attempt < TRIES:
                    if failing := held or event:
                        self._metrics.retried(failing)
                    self._consumer.wait(backoff.seconds(attempt, LONGEST_BACKOFF))
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
                with bound_contextvars(**held.log_fields()):
                    self._dead.dead_letter_event(held.body, failure)
                    self._metrics.dead(held)
                self._resequencer.drop_held(held)
                first, attempt = datetime.now(UTC), 0


def _short(error: object) -> str:
    return str(error)[:1000]
