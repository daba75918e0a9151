"""The worker's consumer: strict admission, gathering, least rights, back soon after an outage."""

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import structlog
from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from celery.worker.state import maybe_shutdown
from kombu import Connection
from kombu.message import Message
from sqlalchemy.exc import SQLAlchemyError

from allocation import bootstrap
from allocation.adapters.sql.migrations import wait_for_schema
from allocation.entrypoints.worker.acks import Acknowledgements
from allocation.entrypoints.worker.admission import StrictConsumer
from allocation.entrypoints.worker.batching import Gathering
from allocation.messaging import backoff
from allocation.messaging.telemetry import heartbeat

log = structlog.get_logger(__name__)

EVENTS_EVERY = 0.05  # seconds
LONGEST_PAUSE = 4.0  # seconds between two tries to reach the broker


def _wait(seconds: float) -> None:
    """Wait; raises Celery's exception that ends the worker if the worker was asked to stop."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        maybe_shutdown()
        time.sleep(min(left, 0.2))  # in slices: no event loop runs yet that a signal could wake
    maybe_shutdown()


class Consumer(StrictConsumer):
    """Celery would declare the queues of delayed retries at each start; `topology` has done so."""

    class Blueprint(CeleryConsumer.Blueprint):
        def claim_steps(self) -> dict[str, Any]:
            steps: dict[str, Any] = super().claim_steps()
            del steps[DelayedDelivery.name]
            return steps

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self._events_due = False
        self._acknowledgements = Acknowledgements(self)
        if self.hub is not None:  # on the embedded broker Celery has no event loop to gather in
            settings = bootstrap.settings()
            self._gathering = Gathering(self, settings.gather_size, settings.gather_wait)
            self.on_task_request = self._gathering.add

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        handle = super().create_task_handler(*args, **options)

        def handle_and_keep_account(message: Message) -> None:
            self._acknowledgements.expect(message)
            handle(message)
            if message.acknowledged:
                self._acknowledgements.settled(message)

        return handle_and_keep_account if self.hub is not None else handle

    def call_soon_ack(self, settle: Any, *args: Any, **options: Any) -> Any:
        """Acknowledge a message together with others; reject it by itself."""
        if self.hub is None:
            return super().call_soon_ack(settle, *args, **options)
        message = settle.__self__
        if settle == message.ack_log_error:
            return self._acknowledgements.add(message)
        self._acknowledgements.settled(message)
        return super().call_soon_ack(settle, *args, **options)

    def on_send_event_buffered(self) -> None:
        """Celery would send what it has at each round of the event loop: one event, mostly."""
        if self.hub is not None and not self._events_due:
            self._events_due = True
            self.hub.call_later(EVENTS_EVERY, self._send_events)

    def _send_events(self) -> None:
        self._events_due = False
        self._flush_events()

    def on_ready(self) -> None:
        super().on_ready()
        heartbeat.beat(bootstrap.settings().state_dir, "worker")

    def on_close(self) -> None:
        super().on_close()
        self._acknowledgements.forget()
        if self.hub is not None:
            self._gathering.forget()

    def connect(self) -> Connection:
        """Connect only once the database can be used: until then commands would use up deliveries.

        Checked at each reconnect, as the database may have been restored in the meantime.
        """
        engine = bootstrap.engine(bootstrap.settings().database_url)
        failures = 0
        while True:
            try:
                wait_for_schema(engine, _wait, stopped=lambda: False)
                return super().connect()
            except SQLAlchemyError as error:
                failures += 1
                log.warning(
                    "waiting: the database can't be reached",
                    error=str(getattr(error, "orig", error)).partition("\n")[0],
                )
                _wait(backoff.seconds(failures))

    def ensure_connected(self, conn: Connection) -> Connection:
        """Celery's own pauses grow to half a minute: so long the queue would wait for nobody."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=0.5,
            interval_step=0.5,
            interval_max=LONGEST_PAUSE,
        )
        return super().ensure_connected(conn)
