"""What a subscriber counts for monitoring, served where a port is set for it. No label is an id."""

import sys
from collections import Counter as Tally
from collections.abc import Collection, Iterable
from time import perf_counter
from uuid import UUID

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client import start_http_server as start

from allocation.messaging.cloudevents import Envelope, UnknownVersion, Unreadable

REASONS = ("failed", Unreadable.reason, UnknownVersion.reason)
"""Why an event may become a dead letter by a subscriber's hand."""


class Figures:
    """Those of one subscriber, behind its name: `warehouse` counts `warehouse_events_total`.

    The type is a label: only the relay may write where the subscribers read.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.registry = CollectorRegistry()
        self.consuming = Gauge(
            f"{name}_consuming",
            "Whether the queue is being consumed: broker and database are there.",
            registry=self.registry,
        )
        self.queue_messages = Gauge(
            f"{name}_queue_messages",
            "Messages in the queue that no consumer has in hand.",
            registry=self.registry,
        )
        self._events = Counter(
            f"{name}_events",
            "Events by type and result: done, repeated (known already), retried, dead.",
            ["type", "result"],
            registry=self.registry,
        )
        self._dead_letters = Counter(
            f"{name}_dead_letters",
            "Messages set aside by this process, by the reason.",
            ["reason"],
            registry=self.registry,
        )
        for reason in REASONS:  # nobody sees an increase that is a first value
            self._dead_letters.labels(reason)
        self._batch_seconds = Histogram(
            f"{name}_batch_seconds",
            "The transaction that takes the events which were there together.",
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=self.registry,
        )

    def taken(self, events: Iterable[Envelope], new: Collection[UUID], began: float) -> None:
        """A transaction, begun at `began`, took the events; those in `new` were not known yet."""
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
        """An event that is set aside as it failed."""
        self._events.labels(event.type, "dead").inc()
        self._dead_letters.labels("failed").inc()

    def spoilt(self, reason: str) -> None:
        """A message that is no event, and so of no type, is set aside."""
        self._dead_letters.labels(reason).inc()

    def serve(self, host: str, port: int | None) -> None:
        """Serve them at `port`, if there is one; ends the process where it is taken."""
        if port is None:
            return
        disable_created_metrics()  # a second series for each one, which nobody looks at
        ProcessCollector(registry=self.registry)
        try:
            start(port, host, self.registry)
        except OSError as error:
            variable = f"{self.name.upper()}_METRICS_PORT"
            sys.exit(
                f"{self.name}: no metrics can be served at {host}:{port}: {error.strerror};"
                f" set {variable} to another port, or unset it"
                " (ALLOCATION_METRICS_HOST is the address)"
            )
