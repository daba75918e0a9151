"""The worker's consumer: what the parts of this room are put together to."""

import math
from functools import cached_property
from typing import TYPE_CHECKING, Any

import structlog
from kombu.message import Message
from kombu.transport.native_delayed_delivery import MAX_LEVEL, calculate_routing_key, level_name
from sqlalchemy.exc import SQLAlchemyError

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql.migrations import wait_for_schema
from allocation.entrypoints.worker import celery_internals
from allocation.entrypoints.worker.admission import Admission
from allocation.messaging import backoff
from allocation.messaging.telemetry import heartbeat

if TYPE_CHECKING:
    from allocation.entrypoints.worker.app import WorkerApp

log = structlog.get_logger(__name__)


class Consumer(celery_internals.Consumer):
    """Admits commands, decides them in batches, and connects only while the database is there."""

    app: "WorkerApp"

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        settings = self.app.dependencies.settings
        self.admission = Admission(
            self.app.tasks, self.app.dead_letter, self._postpone, self.connection_errors
        )
        self.start_batching(settings.batch_size, settings.linger)

    def on_ready(self) -> None:
        super().on_ready()
        heartbeat.beat(self.app.dependencies.settings.state_dir, "worker")

    def wait_until_usable(self) -> None:
        """Wait for the database: until it can be used, commands would use up their deliveries.

        Checked at each reconnect, as the database may have been restored in the meantime.
        """
        failures = 0
        while True:
            try:
                wait_for_schema(
                    self.app.dependencies.engine,
                    celery_internals.wait_or_stop,
                    stopped=lambda: False,
                )
                return
            except SQLAlchemyError as error:
                failures += 1
                log.warning(
                    "waiting: the database can't be reached",
                    error=str(getattr(error, "orig", error)).partition("\n")[0],
                )
                celery_internals.wait_or_stop(backoff.seconds(failures))

    @cached_property
    def _broker_can_delay(self) -> bool:
        return self.broker_can_delay()

    def _postpone(self, message: Message, delay: float) -> bool:
        """Have the broker hold the message for `delay` seconds; False unless it does."""
        if not self._broker_can_delay:
            return False
        key = calculate_routing_key(math.ceil(delay), topology.COMMANDS)
        return self.app.dead_letters.copy(message, level_name(MAX_LEVEL), key, message.headers)
