"""Sends what the outbox holds to the broker, and marks it once the broker has it."""

import json
import threading

import structlog
from amqp.exceptions import AMQPError, ChannelError, MessageNacked
from kombu import Producer
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from allocation.messaging import backoff
from allocation.messaging.connection import connect
from allocation.messaging.telemetry import trace_context, tracing
from workers.dead_letters import CONFIRM_TIMEOUT
from workers.settings import Settings
from workers.warehouse import outbox

log = structlog.get_logger(__name__)

EXCHANGE = "allocation.inbound"
"""A topic; the routing key is the event's type."""

_OUTAGES = (OSError, AMQPError, MessageNacked)
"""What is raised while the broker is away, or does not take a message."""


class Relay:
    """Any number may run side by side: a row is in the hands of one.

    Whoever dies between the broker's yes and the mark leaves the row to be sent again, with the
    same id.
    """

    def __init__(self, engine: Engine, settings: Settings, registry: CollectorRegistry) -> None:
        self._engine = engine
        self._settings = settings
        self._told = Counter(
            "warehouse_told",
            "Events that the broker has of what was dispatched; one sent again counts again.",
            registry=registry,
        )

    def run(self, stop: threading.Event, every: float = 0.2) -> None:
        """Send until `stop` is set, looking for more every `every` seconds; outlives outages."""
        failures = 0
        while not stop.is_set():
            try:
                if not outbox.is_empty(self._engine):
                    self._send_all(stop)
                failures = 0
                wait = every
            except (DBAPIError, *_OUTAGES) as error:
                failures += 1
                wait = backoff.seconds(failures)
                hint = (
                    f"; if {EXCHANGE} or its queue is missing, run `allocation topology`"
                    if isinstance(error, ChannelError)
                    else ""
                )
                log.warning(
                    f"what was dispatched can't be told{hint}",
                    error=str(error) or repr(error),
                    retry_in_seconds=round(wait, 1),
                )
            stop.wait(wait)

    def _send_all(self, stop: threading.Event) -> None:
        # No connection lies idle: nobody would answer the broker's signs of life.
        connection = connect(
            self._settings.allocation_broker_url, self._settings.broker_transport, confirm=True
        )
        try:
            producer = connection.Producer(connection.channel())
            while not stop.is_set() and self._send_one(producer):
                pass
        except _OUTAGES:
            connection.collect()  # without a goodbye, which may have no answer
            raise
        finally:
            connection.release()

    def _send_one(self, producer: Producer) -> bool:
        """Send the oldest row; False when there is none."""
        with outbox.oldest(self._engine) as row:
            if row is None:
                return False
            event = json.loads(trace_context.in_event(row.body, row.traceparent))
            span = tracing.event("publish", row.type, str(row.event_id), EXCHANGE, event)
            with tracing.ending([span]):
                producer.publish(
                    trace_context.in_event(row.body, span.traceparent),
                    exchange=EXCHANGE,
                    routing_key=row.type,
                    content_type="application/cloudevents+json",
                    content_encoding="utf-8",
                    message_id=str(row.event_id),
                    delivery_mode=2,
                    mandatory=True,
                    confirm_timeout=CONFIRM_TIMEOUT,
                )
        self._told.inc()
        log.info(
            "told",
            event_id=str(row.event_id),
            type=row.type,
            orderid=event["data"]["orderid"],
            sku=event["subject"],
            trace_id=trace_context.event_trace_id(event),
        )
        return True
