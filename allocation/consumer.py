"""The worker's consumer: strict admission, and no step that would need the right to configure."""

from typing import Any

from celery.worker.consumer import Consumer as CeleryConsumer
from celery.worker.consumer.delayed_delivery import DelayedDelivery

from allocation.admission import StrictConsumer


class Consumer(StrictConsumer):
    """Celery would declare the queues of delayed retries at each start; `topology` has done so."""

    class Blueprint(CeleryConsumer.Blueprint):
        def claim_steps(self) -> dict[str, Any]:
            steps: dict[str, Any] = super().claim_steps()
            del steps[DelayedDelivery.name]
            return steps
