"""The worker's consumer: strict admission, least rights, and back soon after an outage."""

from functools import partial
from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.delayed_delivery import DelayedDelivery
from kombu import Connection

from allocation.admission import StrictConsumer

LONGEST_PAUSE = 4.0  # seconds between two tries to reach the broker


class Consumer(StrictConsumer):
    """Celery would declare the queues of delayed retries at each start; `topology` has done so."""

    class Blueprint(CeleryConsumer.Blueprint):
        def claim_steps(self) -> dict[str, Any]:
            steps: dict[str, Any] = super().claim_steps()
            del steps[DelayedDelivery.name]
            return steps

    def ensure_connected(self, conn: Connection) -> Connection:
        """Celery's own pauses grow to half a minute: so long the queue would wait for nobody."""
        conn.ensure_connection = partial(
            conn.ensure_connection,
            interval_start=0.5,
            interval_step=0.5,
            interval_max=LONGEST_PAUSE,
        )
        return super().ensure_connected(conn)
