"""The kit that every subscriber shares: consume, retry, dead-letter, and outlive outages."""

import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime

import structlog
from kombu import Connection, Consumer, Queue
from kombu.message import Message
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError

from workers.envelope import Envelope, Unreadable, read
from workers.settings import Settings

log = structlog.get_logger(__name__)

PREFETCH = 100
TRIES = 5
LONGEST_PAUSE = 5.0  # seconds between two tries to reach what is down
TICK = 1.0  # seconds

Handle = Callable[[Envelope], None]


class Subscriber:
    """Hands every event of one queue to `handle`, and acknowledges it when that returns.

    What is no readable event, and what fails five times, goes to `<queue>.dead` with the reason in
    its headers. While the database or the broker is away nothing is acknowledged or given up.
    `tick` is called about once a second.
    """

    def __init__(
        self, settings: Settings, queue: str, handle: Handle, tick: Callable[[], None]
    ) -> None:
        self._settings = settings
        self._queue = queue
        self._handle = handle
        self._tick = tick
        self._ticked = 0.0
        self._stop = threading.Event()
        self._connection: Connection

    def stop(self) -> None:
        """Finish the event in hand, then return from `run`."""
        self._stop.set()

    def run_until_signalled(self) -> None:
        """`run` until SIGTERM or SIGINT."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: self.stop())
        self.run()

    def run(self) -> None:
        """Consume until `stop`, connecting again for ever."""
        failures = 0
        while not self._stop.is_set():
            self._connection = Connection(
                self._settings.allocation_broker_url,
                transport=self._settings.broker_transport,
                transport_options={}
                if self._settings.broker_transport
                else {"confirm_publish": True},
                heartbeat=0 if self._settings.broker_transport else 15,
            )
            outages = (
                DBAPIError,
                OSError,
                *self._connection.connection_errors,
                *self._connection.channel_errors,
            )
            begun = time.monotonic()
            try:
                with self._connection:
                    self._consume()
            except outages as error:
                failures = 1 if time.monotonic() - begun > 10 else failures + 1
                pause = random.uniform(0.5, 1) * min(LONGEST_PAUSE, 0.2 * 2**failures)  # noqa: S311 - jitter needs no secrecy
                log.warning(
                    f"{self._queue} is not being consumed; if the queue is missing, run"
                    " `allocation topology`",
                    error=str(error),
                    retry_in_seconds=round(pause, 1),
                )
                self._beat()
                self._stop.wait(pause)

    def _beat(self) -> None:
        """Leave a sign of life for the container's health check: the age of a file."""
        sign = self._settings.allocation_state_dir / "alive" / self._queue.partition(".")[0]
        sign.parent.mkdir(parents=True, exist_ok=True)
        sign.touch()

    def _consume(self) -> None:
        channel = self._connection.channel()
        # Passive: a subscriber needs no right to configure the broker.
        channel.queue_declare(self._queue, passive=True)
        queue = Queue(self._queue, no_declare=True)
        with Consumer(
            channel,
            [queue],
            on_message=self._take,
            on_decode_error=self._take_undecoded,
            prefetch_count=PREFETCH,
            auto_declare=False,
        ):
            log.info(f"ready: consuming {self._queue}")
            while not self._stop.is_set():
                try:
                    self._connection.drain_events(timeout=TICK)
                except TimeoutError:
                    pass
                if self._connection.heartbeat:
                    self._connection.heartbeat_check()
                if time.monotonic() - self._ticked > TICK:
                    self._tick()
                    self._beat()
                    self._ticked = time.monotonic()

    def _take(self, message: Message) -> None:
        if self._stop.is_set():
            return  # not ours any more: it goes back with the connection
        try:
            event = read(message.body, message.content_type)
        except Unreadable as reason:
            self._bury(message, "unreadable", str(reason))
            return
        bound = {"event_id": str(event.id), "type": event.type, "sku": event.subject}
        with structlog.contextvars.bound_contextvars(sequence=event.sequence, **bound):
            self._try(message, event)

    def _take_undecoded(self, message: Message, error: Exception) -> None:
        self._bury(message, "unreadable", f"the message can't be decoded: {error}")

    def _try(self, message: Message, event: Envelope) -> None:
        first = datetime.now(UTC)
        for attempt in range(1, TRIES + 1):
            try:
                self._handle(event)
            except Unreadable as reason:
                self._bury(message, "unreadable", str(reason))
                return
            except (OperationalError, InterfaceError):
                raise  # the database is away: stop consuming until it is back
            except Exception as error:  # noqa: BLE001 - one event's fault must not stop the others
                log.warning("an event failed", attempt=attempt, error=repr(error))
                if attempt == TRIES:
                    self._bury(
                        message,
                        "failed",
                        f"{type(error).__name__}: {error}",
                        traceback=traceback.format_exc()[-4000:],
                        attempts=attempt,
                        first=first.isoformat(),
                        last=datetime.now(UTC).isoformat(),
                    )
                    return
                self._stop.wait(0.05 * 2**attempt)
            else:
                message.ack()
                return

    def _bury(self, message: Message, reason: str, error: str, **facts: object) -> None:
        """Publish the message to the dead-letter queue, and acknowledge it once it is there."""
        log.error("an event goes to the dead-letter queue", reason=reason, error=error[:500])
        headers = dict(message.headers or {})
        # What came compressed is plain here, or could not be unpacked and is not to be tried again.
        compression = headers.pop("compression", None)
        if message.errors and compression:
            headers["x-compression"] = compression
        death: dict[str, object] = {"x-reason": reason, "x-error": error[:1000]}
        death |= {f"x-{name}": value for name, value in facts.items()}
        self._connection.Producer().publish(
            message.body,
            exchange="",
            routing_key=f"{self._queue}.dead",
            content_type=message.content_type,
            content_encoding=message.content_encoding or "binary",
            headers=headers | death,
            delivery_mode=2,
            mandatory=True,
        )
        message.ack()
