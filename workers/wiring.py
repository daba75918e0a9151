"""Builds the consumer of a worker's queue from the workers' settings."""

from collections.abc import Callable

from allocation.messaging.resequencer import Resequencer
from allocation.messaging.subscriber import Subscriber
from workers.broker import connect
from workers.envelope import Envelope
from workers.metrics import Figures
from workers.settings import Settings


def subscriber(
    settings: Settings,
    queue: str,
    parse: Callable[[Envelope], object],
    resequencer: Resequencer,
    metrics: Figures,
    linger: float = 0.0,
) -> Subscriber:
    """A subscriber that connects to the configured broker."""
    return Subscriber(
        queue,
        lambda: connect(settings.allocation_broker_url, settings.broker_transport),
        parse,
        resequencer,
        metrics,
        linger=linger,
        missing=": run `allocation topology`",
        alive_file=settings.allocation_state_dir / "alive" / queue.partition(".")[0],
    )
