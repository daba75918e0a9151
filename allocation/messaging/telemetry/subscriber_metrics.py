"""The metrics of a subscriber. No label is an id."""

from collections import Counter as Tally
from collections.abc import Collection, Iterable
from time import perf_counter
from uuid import UUID

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from allocation.messaging.cloudevents import Envelope

REASONS = ("failed", "unreadable", "unknown version")
"""Why a subscriber may dead-letter a message."""


class SubscriberMetrics:
    """The metrics of one subscriber begin with its name, such as `warehouse_events_total`.

    The type is a label: only the relay may write where the subscribers read.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.registry = CollectorRegistry()
        self.consuming = Gauge(
            f"{name}_consuming",
            "1 if the process consumes its queue: broker and database are available.",
            registry=self.registry,
        )
        self.queue_messages = Gauge(
            f"{name}_queue_messages",
            "Messages in the queue that are not delivered to a consumer yet.",
            registry=self.registry,
        )
        self._events = Counter(
            f"{name}_events",
            "Events by type and result: done, repeated (already processed), retried, dead.",
            ["type", "result"],
            registry=self.registry,
        )
        self._dead_letters = Counter(
            f"{name}_dead_letters",
            "Messages that this process dead-lettered, by reason.",
            ["reason"],
            registry=self.registry,
        )
        for reason in REASONS:  # an increase from nothing would not be seen
            self._dead_letters.labels(reason)
        self._batch_seconds = Histogram(
            f"{name}_batch_seconds",
            "Duration of the transaction that processes a batch of events.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )

    def taken(self, events: Iterable[Envelope], new: Collection[UUID], began: float) -> None:
        """Count the events of a transaction; those in `new` were not received before."""
        self._batch_seconds.observe(perf_counter() - began)
        left = set(new)
        results: Tally[tuple[str, str]] = Tally()
        for event in events:
            results[event.type, "done" if event.id in left else "repeated"] += 1
            left.discard(event.id)
        for (kind, result), count in results.items():
            self._events.labels(kind, result).inc(count)

    def retried(self, event: Envelope) -> None:
        self._events.labels(event.type, "retried").inc()

    def dead(self, event: Envelope) -> None:
        """Count a dead-lettered event."""
        self._events.labels(event.type, "dead").inc()
        self._dead_letters.labels("failed").inc()

    def invalid(self, reason: str) -> None:
        """Count a dead-lettered message that is not an event, and so has no type."""
        self._dead_letters.labels(reason).inc()
