"""The worker's consumer: what the parts of this room are put together to."""

import math
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any

import structlog
from kombu.message import Message
from kombu.transport.native_delayed_delivery import MAX_LEVEL, calculate_routing_key, level_name
from sqlalchemy.exc import SQLAlchemyError

from allocation.adapters.rabbitmq import partitioning, topology
from allocation.adapters.sql import partitions
from allocation.adapters.sql.migrations import wait_for_schema
from allocation.entrypoints.worker import celery_internals
from allocation.entrypoints.worker.admission import Admission
from allocation.entrypoints.worker.spreading import (
    LOOK_EVERY,
    SETTLED_WITHIN,
    PartitionConsumer,
    Spreading,
)
from allocation.messaging import backoff
from allocation.messaging.telemetry import heartbeat

if TYPE_CHECKING:
    from allocation.entrypoints.worker.app import WorkerApp

log = structlog.get_logger(__name__)


class Consumer(celery_internals.Consumer):
    """Admits commands, decides them in batches, and connects only while the database is there."""

    app: "WorkerApp"
    _connections = 0
    """How often it has connected: what was begun for an earlier connection ends."""
    _layout: partitions.Layout | None = None
    """The queues that it consumes; None on the embedded broker."""
    _spreading: Spreading | None = None

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
        if self._layout is not None and self.hub is not None:
            self.hub.call_later(LOOK_EVERY, self._look, self._connections)

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
                self._choose_queues()
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

    def _choose_queues(self) -> None:
        """Choose the queues to consume, once they may be: while partitions change they may not."""
        dependencies = self.app.dependencies
        if dependencies.settings.broker_transport is not None:
            return
        while True:
            with dependencies.engine.connect() as connection:
                self._layout = partitions.layout(connection)
            # The worker forks processes, which must not inherit a connection.
            dependencies.engine.dispose()
            if self._layout.consumed:
                break
            log.info("waiting: the queues of the commands are about to change")
            celery_internals.wait_or_stop(LOOK_EVERY)
        self._connections += 1
        if self._spreading is not None:
            self._spreading.stop()
            self._spreading = None
        queues = self._layout.queues or (topology.COMMANDS,)
        partitioned = queues != (topology.COMMANDS,)
        self.consume_from(list(map(partitioning.queue, queues)), partitioned=partitioned)

    def _look(self, connections: int) -> None:
        """Give up partitions that are too many beside the other workers, and say what it has.

        Until the worker connects again; it does if it is to consume other queues now.
        """
        if connections != self._connections or self._layout is None:
            return
        held: list[str] = []
        consumer = self.task_consumer
        if isinstance(consumer, PartitionConsumer):
            if self._spreading is None:
                assert self.acknowledgements is not None
                self._spreading = Spreading(self.hub, consumer, self.acknowledgements)
            found = topology.queued(self.connection, topology.WORKERS)
            self._spreading.share(found.consumers if found else 1)
            held = consumer.held
        self.app.dependencies.worker_metrics.holds(self._layout.queues, held)
        self.ask_pool(held, partial(self._looked, connections))

    def _looked(self, connections: int, layout: partitions.Layout | None) -> None:
        if connections != self._connections:
            return
        if layout is not None and layout != self._layout:
            self._leave(connections)
        else:
            self.hub.call_later(LOOK_EVERY, self._look, connections)

    def _leave(self, connections: int) -> None:
        """Connect again once everything is settled: what is given back costs a delivery each."""
        if connections != self._connections:
            return
        if self.acknowledgements is None or self.acknowledgements.all_settled:
            self.reconnect("the queues of the commands have changed")
        else:
            self.hub.call_later(SETTLED_WITHIN, self._leave, connections)
