"""Sends what the outbox holds to the broker, and marks it once the broker has it."""

import json
import threading

import structlog
from kombu import Connection
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Engine

from allocation.messaging.connection import connect
from allocation.messaging.outbox_relay import Refused, is_missing, relay_through_outages
from allocation.messaging.publisher import Outgoing, Publisher, publish, publisher
from allocation.messaging.telemetry import trace_context, tracing
from workers.settings import WorkerSettings
from workers.warehouse import outbox

log = structlog.get_logger(__name__)

EXCHANGE = "allocation.inbound"
"""A topic; the routing key is the event's type."""


class Relay:
    """Any number may run side by side: each holds the row that it sends, and no other one.

    So a row is a transaction of its own here, unlike in the service's relay, of which one is active
    and sends many at once. Dying between the broker's confirm and the mark leaves the row to be
    sent again, with the same id.
    """

    def __init__(
        self, engine: Engine, settings: WorkerSettings, registry: CollectorRegistry
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._sent = Counter(
            "warehouse_told",
            "Events that the broker has of what was dispatched; one sent again counts again.",
            registry=registry,
        )

    def run(self, stop: threading.Event, every: float = 0.2) -> None:
        """Send until `stop` is set, looking for more every `every` seconds; outlives outages."""

        def relay(connection: Connection) -> float:
            # Opened for as long as there is something to send: no connection lies idle, of which
            # nobody would answer the broker's heartbeats.
            if not outbox.is_empty(self._engine):
                sender = publisher(connection)
                while not stop.is_set() and self._send_one(sender):
                    pass
            return every

        relay_through_outages(stop, self._connect, relay, _log_outage)

    def _connect(self) -> Connection:
        return connect(self._settings.allocation_broker_url, self._settings.broker_transport)

    def _send_one(self, sender: Publisher) -> bool:
        """Send the oldest row; False if there is none."""
        with outbox.oldest(self._engine) as row:
            if row is None:
                return False
            event = json.loads(trace_context.in_event(row.body, row.traceparent))
            span = tracing.event("publish", row.type, str(row.event_id), EXCHANGE, event)
            with tracing.ending([span]):
                traceparent = span.traceparent
                message = Outgoing(
                    id=str(row.event_id),
                    exchange=EXCHANGE,
                    routing_key=row.type,
                    body=trace_context.in_event(row.body, traceparent),
                    content_type="application/cloudevents+json",
                )
                if not publish(sender, [message]):
                    raise Refused("the broker took no event: its queue is full, or missing")
        self._sent.inc()
        log.info(
            "told",
            event_id=str(row.event_id),
            type=row.type,
            orderid=event["data"]["orderid"],
            sku=event["subject"],
            trace_id=trace_context.event_trace_id(event),
        )
        return True


def _log_outage(error: Exception, seconds: float) -> None:
    hint = (
        f"; if {EXCHANGE} or its queue is missing, run `allocation topology`"
        if isinstance(error, Refused) or is_missing(error)
        else ""
    )
    log.warning(
        f"what was dispatched can't be told{hint}",
        error=str(error) or repr(error),
        retry_in_seconds=round(seconds, 1),
    )
