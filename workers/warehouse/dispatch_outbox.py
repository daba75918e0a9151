"""The warehouse's outbox: events are committed with a dispatch, and published after the commit."""

import json
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from kombu import Connection as Broker
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Connection, Engine, MetaData, Row, insert, select, update

from allocation.messaging.cloudevents import CONTENT_TYPE, Json
from allocation.messaging.connection import connect
from allocation.messaging.outages import is_missing, work_through_outages
from allocation.messaging.outbox_relay import OUTAGES, Refused
from allocation.messaging.publisher import Outgoing, Publisher, publish, publisher
from allocation.messaging.retention import Past
from allocation.messaging.telemetry import trace_context, tracing
from workers.retention import Kind
from workers.settings import WorkerSettings
from workers.warehouse.tables import outbox

log = structlog.get_logger(__name__)

EXCHANGE = "allocation.inbound"
"""A topic; the routing key is the event's type."""


def _sent_before(_: MetaData, limit: datetime) -> Past:
    return Past(outbox.c.event_id, outbox.c.sent_at, outbox.c.sent_at < limit)


SENT = Kind("sent", _sent_before, one="event sent", many="events sent")


def add(
    connection: Connection, events: Sequence[Json], now: datetime, traceparent: str | None = None
) -> None:
    """Insert CloudEvents, which the relay publishes after the commit."""
    connection.execute(
        insert(outbox),
        [
            {
                "event_id": UUID(event["id"]),
                "type": event["type"],
                "body": json.dumps(event),
                "traceparent": traceparent,
                "created_at": now,
            }
            for event in events
        ],
    )


class Relay:
    """Publishes the rows one by one; any number of relays may run side by side.

    Each locks the row that it publishes and skips those that are locked, so a row is a transaction
    of its own. A relay that dies between the broker's confirm and the commit leaves the row to be
    published again, with the same id.
    """

    def __init__(
        self, engine: Engine, settings: WorkerSettings, registry: CollectorRegistry
    ) -> None:
        self._engine = engine
        self._settings = settings
        self._sent = Counter(
            "warehouse_told",
            "Events about dispatched lines that the broker confirmed; a repeated publication"
            " counts again.",
            registry=registry,
        )

    def run(self, stop: threading.Event, every: float = 0.2) -> None:
        """Publish until `stop` is set, polling every `every` seconds; outlives outages."""

        def relay(broker: Broker) -> float:
            # The connection is open only while there are rows to publish: an idle one would have
            # to answer the broker's heartbeats.
            if not self._is_empty():
                sender = publisher(broker)
                while not stop.is_set() and self._publish_oldest(sender):
                    pass
            return every

        work_through_outages(stop, self._connect, relay, _log_outage, OUTAGES)

    def _connect(self) -> Broker:
        return connect(self._settings.allocation_broker_url, self._settings.broker_transport)

    def _is_empty(self) -> bool:
        query = select(outbox.c.event_id).where(outbox.c.sent_at.is_(None)).limit(1)
        with self._engine.connect() as connection:
            return connection.execute(query).first() is None

    def _publish_oldest(self, sender: Publisher) -> bool:
        """Publish the oldest row; False if there is none."""
        with self._oldest() as row:
            if row is None:
                return False
            event = json.loads(trace_context.in_event(row.body, row.traceparent))
            span = tracing.event("publish", row.type, str(row.event_id), EXCHANGE, event)
            with tracing.ending([span]):
                message = Outgoing(
                    id=str(row.event_id),
                    exchange=EXCHANGE,
                    routing_key=row.type,
                    body=trace_context.in_event(row.body, span.traceparent),
                    content_type=CONTENT_TYPE,
                )
                if not publish(sender, [message]):
                    raise Refused(
                        "the broker did not accept the event: its queue is full or missing"
                    )
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

    @contextmanager
    def _oldest(self) -> Iterator[Row[Any] | None]:
        """Lock the oldest pending row that is not locked; mark it as sent on success."""
        pending = (
            select(outbox)
            .where(outbox.c.sent_at.is_(None))
            .order_by(outbox.c.created_at, outbox.c.event_id)
            .limit(1)
            .with_for_update(skip_locked=True)
        )
        with self._engine.begin() as connection:
            row = connection.execute(pending).one_or_none()
            yield row
            if row is not None:
                this = outbox.c.event_id == row.event_id
                connection.execute(update(outbox).where(this).values(sent_at=datetime.now(UTC)))


def _log_outage(error: Exception, seconds: float) -> None:
    hint = (
        f"; if {EXCHANGE} or its queue is missing, run `allocation topology`"
        if isinstance(error, Refused) or is_missing(error)
        else ""
    )
    log.warning(
        f"events about dispatched lines can't be published{hint}",
        error=str(error) or repr(error),
        retry_in_seconds=round(seconds, 1),
    )
