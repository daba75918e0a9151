"""The consume loop: reads one queue in batches for ever, through outages, until it is stopped."""

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Generic, Protocol, TypeVar

import kombu
import structlog
from kombu import Connection, Queue
from kombu.message import Message

from allocation.messaging.deliveries import Read, reader
from allocation.messaging.outages import exchange_heartbeats, is_missing, work_through_outages

log = structlog.get_logger(__name__)

TICK = 1.0
"""Seconds: the longest wait for messages, and the time between two signs of life."""
READ_TIME = 0.02
"""Seconds at most to read the messages that have arrived, without `linger`."""
READ_TIMEOUT = 0.001
"""Seconds without a message after which no more have arrived. With 0 py-amqp may spin."""

Item = TypeVar("Item")


class Stopped(Exception):
    """The consumer was asked to stop: messages that are not acknowledged go back to the queue."""


class Handler(Protocol[Item]):
    """What is done with the messages of a queue."""

    def start(self, connection: Connection) -> None:
        """Prepare for a new connection, before messages are fetched.

        Fetching messages while the database is down would cost each of them one of the deliveries
        that the queue allows: raise one of the consumer's `outages` until it is back.
        """

    def read(self, message: Message) -> Item:
        """Read a message that has arrived; don't use its connection here."""

    def process(self, pending: deque[Item]) -> None:
        """Take some items from the left of `pending`, and acknowledge or reject their messages.

        Called again while there are items. Raise one of the consumer's `outages` to give all
        messages back and connect again.
        """

    def tick(self, queue_messages: int) -> None:
        """Do what is due every second; `queue_messages` wait in the queue."""


class Consumer(Generic[Item]):
    """Consumes one queue.

    Every message that arrives is pending until the handler has processed it. After an outage the
    consumer connects again, with a backoff; the broker then delivers pending messages again.
    """

    def __init__(
        self,
        queue: str,
        connect: Callable[[], Connection],
        *,
        batch_size: int,
        linger: float = 0.0,
        outages: Sequence[type[Exception]] = (),
        declare: Callable[[Connection], object] | None = None,
        missing: str = "",
        consuming: Callable[[float], object] = lambda value: None,
        alive: Callable[[], object] = lambda: None,
    ) -> None:
        """`connect` returns a connection that may not be open yet.

        With fewer than `batch_size` pending messages the consumer waits `linger` seconds for more.
        `outages` are exceptions of the handler that mean: give the messages back and connect again.
        `declare` declares the queue on each connection; without it the queue must exist, so that
        the broker's user needs no right to configure it, and `missing` says what to do if it
        doesn't. `consuming` is called with 1 and 0, `alive` about every second.
        """
        self.queue = queue
        self._connect = connect
        self._batch_size = batch_size
        self._linger = linger
        self._outages = outages
        self._declare = declare
        self._missing = missing
        self._consuming = consuming
        self._alive = alive
        self._stop = threading.Event()
        self._connection: Connection | None = None
        self._alive_at = 0.0
        self._pending: deque[Item] = deque()

    def run(self, handler: Handler[Item], stop: threading.Event) -> None:
        """Consume until `stop` is set; a batch that is being processed is finished first."""
        self._stop = stop

        def work(connection: Connection) -> float:
            self._alive()
            self._connection = connection
            try:
                self._consume(connection, handler)
            finally:
                self._consuming(0)
            return 0

        with suppress(Stopped):
            work_through_outages(stop, self._connect, work, self._log_outage, self._outages)

    def check_stop(self) -> None:
        """Keep the connection alive. Raises Stopped if the consumer was asked to stop."""
        if self._stop.is_set():
            raise Stopped
        self._keep_alive()

    def wait(self, seconds: float) -> None:
        """Wait before a retry. Raises Stopped."""
        self._stop.wait(seconds)
        self.check_stop()

    def _log_outage(self, error: Exception, seconds: float) -> None:
        missing = is_missing(error)
        log.log(
            logging.ERROR if missing else logging.WARNING,
            f"{self.queue} is not being consumed"
            + (f"; it is missing{self._missing}" if missing else ""),
            error=str(error) or repr(error),
            retry_in_seconds=round(seconds, 1),
        )

    def _consume(self, connection: Connection, handler: Handler[Item]) -> None:
        channel = connection.channel()
        channel.auto_decode = False  # messages say anything of themselves: bodies stay bytes
        if self._declare:
            self._declare(connection)
        channel.queue_declare(self.queue, passive=True)
        handler.start(connection)
        self._pending.clear()

        # A message is not processed when it arrives: waiting there for a confirm of the broker
        # would read the next message, and so on, one call inside the other.
        def receive(message: Message, _error: Exception | None = None) -> None:
            self._pending.append(handler.read(message))

        with kombu.Consumer(
            channel,
            [Queue(self.queue, no_declare=True)],
            on_message=receive,
            on_decode_error=receive,
            prefetch_count=2 * self._batch_size,  # the next batch arrives during this one
            auto_declare=False,
        ):
            log.info(f"ready: consuming {self.queue}")
            self._consuming(1)
            read = reader(connection)
            ticked = 0.0
            while not self._stop.is_set():
                self._receive(read)
                started = time.monotonic()
                while self._pending and time.monotonic() - started < TICK:
                    handler.process(self._pending)
                    if self._stop.is_set():
                        return
                self._keep_alive()
                if time.monotonic() - ticked > TICK:
                    handler.tick(channel.queue_declare(self.queue, passive=True).message_count)
                    ticked = time.monotonic()

    def _receive(self, read: Read) -> None:
        """Read messages that have arrived, up to a batch; wait only if there is nothing to do."""
        try:
            more = read(READ_TIMEOUT if self._pending else TICK)
            if not (more or self._linger) and len(self._pending) == 1:
                return  # a message alone is not kept waiting; several may be followed by others
            started = time.monotonic()
            while not self._full and (left := started + self._linger - time.monotonic()) > 0:
                with suppress(TimeoutError):
                    read(left)
            started = time.monotonic()
            while not self._full and time.monotonic() - started < READ_TIME:
                read(READ_TIMEOUT)
        except TimeoutError:
            pass

    @property
    def _full(self) -> bool:
        return len(self._pending) >= self._batch_size

    def _keep_alive(self) -> None:
        """Show that the process is alive, to its health check and to the broker."""
        if time.monotonic() - self._alive_at < TICK:
            return
        self._alive_at = time.monotonic()
        self._alive()
        if self._connection:
            exchange_heartbeats(self._connection)
