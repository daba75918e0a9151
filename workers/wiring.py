"""Builds the consumer of a worker's queue from the workers' settings."""

from collections.abc import Callable

from allocation.messaging.cloudevents import Envelope
from allocation.messaging.connection import connect
from allocation.messaging.resequencer import Resequencer
from allocation.messaging.subscriber import Subscriber
from allocation.messaging.telemetry import heartbeat
from allocation.messaging.telemetry.subscriber_metrics import SubscriberMetrics
from workers.settings import WorkerSettings


def subscriber(
    settings: WorkerSettings,
    queue: str,
    parse: Callable[[Envelope], object],
    resequencer: Resequencer,
    metrics: SubscriberMetrics,
    linger: float = 0.0,
) -> Subscriber:
    """A subscriber that connects to the configured broker."""
    name = queue.partition(".")[0]
    return Subscriber(
        queue,
        lambda: connect(settings.allocation_broker_url, settings.broker_transport, confirm=True),
        parse,
        resequencer,
        metrics,
        linger=linger,
        missing=": run `allocation topology`",
        alive=lambda: heartbeat.beat(settings.allocation_state_dir, name),
    )
