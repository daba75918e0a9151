"""Publishes the events of a decision after its commit, in the process of the pool that decided it.

What the broker does not confirm soon is left to the relay.
"""

import time
from collections.abc import Sequence

import structlog
from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from allocation.adapters.metrics import WorkerMetrics
from allocation.adapters.rabbitmq import topology
from allocation.adapters.rabbitmq.outbox_messages import messages
from allocation.adapters.sql.outbox import EventRow, mark_published
from allocation.bootstrap import Dependencies
from allocation.messaging.outages import is_missing
from allocation.messaging.publisher import DirectPublisher

log = structlog.get_logger(__name__)

TIME_LIMIT = 1.0
"""Seconds that the broker has for each step: to connect, to answer, to take a message."""


class DirectEvents:
    """Publishes committed events, and marks those that the broker confirmed, in their order."""

    def __init__(self, engine: Engine, publisher: DirectPublisher, metrics: WorkerMetrics) -> None:
        self._engine = engine
        self._publisher = publisher
        self._metrics = metrics

    @property
    def is_ready(self) -> bool:
        return self._publisher.is_ready

    def publish(self, rows: Sequence[EventRow]) -> None:
        begun = time.monotonic()
        with messages(rows) as outgoing:
            kept = self._publisher.publish(outgoing)
        names = [row.name for row in rows if row.id in kept]
        self._metrics.published(names, len(rows) - len(names), time.monotonic() - begun)
        try:
            mark_published(self._engine, rows, kept)
        except SQLAlchemyError as error:
            log.warning(
                "published events could not be marked; the relay will publish them again",
                events=len(kept),
                error=str(getattr(error, "orig", error)).partition("\n")[0],
            )

    def close(self) -> None:
        """Close the connection to the broker."""
        self._publisher.close()


def direct_events(dependencies: Dependencies) -> DirectEvents | None:
    """What publishes a worker's events; None if the relay is to publish all of them.

    As it does on the embedded broker: there a worker would take SQLite's only write lock once more
    for each command, while the relay marks many rows together.
    """
    settings = dependencies.settings
    if not settings.publish_directly or settings.broker_transport is not None:
        return None
    publisher = DirectPublisher(
        dependencies.brisk_brokers(TIME_LIMIT),
        _on_outage,
        bind=topology.bind,
        require=topology.require,
    )
    return DirectEvents(dependencies.engine, publisher, dependencies.worker_metrics)


def _on_outage(error: Exception, seconds: float) -> None:
    log.warning(
        "the worker could not publish its events, and leaves them to the relay"
        + ("; a queue is missing: run `allocation topology`" if is_missing(error) else ""),
        error=str(error) or repr(error),
        seconds=round(seconds, 1),
    )
