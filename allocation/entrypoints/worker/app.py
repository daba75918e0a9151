"""The Celery application: `celery -A allocation worker` finds it as `app`."""

import sys
from collections.abc import Sequence
from functools import partial
from typing import Any

import structlog
from celery import Celery
from celery.signals import (
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
)
from kombu.message import Message
from sqlalchemy.exc import SQLAlchemyError

from allocation import bootstrap
from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import partitions
from allocation.entrypoints.worker import celery_internals
from allocation.entrypoints.worker.consumer import Consumer
from allocation.entrypoints.worker.executor import Executor
from allocation.entrypoints.worker.publishing import DirectEvents, direct_events
from allocation.entrypoints.worker.tasks import TASKS, end_undecided
from allocation.messaging.connection import SPOOL_TRANSPORT
from allocation.messaging.dead_letters import DeadLetterPublisher, Details
from allocation.messaging.telemetry import logs, metrics_server, tracing
from allocation.settings import Settings

log = structlog.get_logger(__name__)


class WorkerApp(Celery):
    """Celery's application, with what tasks and consumer need; a worker's main process builds it.

    The processes of the pool inherit it.
    """

    dependencies: bootstrap.Dependencies
    executor: Executor
    direct_events: DirectEvents | None
    dead_letters: DeadLetterPublisher

    def build(self) -> None:
        made = bootstrap.build()
        self.dependencies = made
        self.direct_events = direct_events(made)
        unit_of_work = partial(made.unit_of_work, self.direct_events)
        self.executor = Executor(unit_of_work, made.worker_metrics, end_undecided)
        self.dead_letters = DeadLetterPublisher(self.connection_for_write)

    def dead_letter(self, message: Message, details: Details) -> bool:
        """Copy the message to the dead-letter queue; False unless the broker has the copy."""
        metrics = self.dependencies.worker_metrics
        metrics.dead_lettered(topology.DEAD, str(details["reason"]))
        return self.dead_letters.dead_letter(message, topology.DEAD, details)

    def look(self, worker: str, held: Sequence[str]) -> partitions.Layout | None:
        """Note the partitions that the worker has; the queues that it is to consume, if known."""
        try:
            with self.dependencies.engine.begin() as connection:
                layout = partitions.layout(connection)
                if layout.queues:
                    partitions.has(connection, worker, held)
                return layout
        except SQLAlchemyError as error:
            log.warning("the partitions can't be looked up", error=str(error).partition("\n")[0])
            return None


celery_internals.alias_transport("spool", SPOOL_TRANSPORT)
app = WorkerApp("allocation", events=celery_internals.Events)
app.config_from_object("celeryconfig")
app.conf.worker_consumer = Consumer
for task in TASKS:
    app.register_task(task)

# The `celery` command imports Flower before this module; no other program runs Flower.
if "flower.urls" in sys.modules:
    from allocation.entrypoints.worker import flower

    flower.add_headers()


@setup_logging.connect
def _configure_logs(**_: Any) -> None:
    settings = Settings()
    logs.configure(settings.log_format, settings.log_level)


@worker_init.connect
def _build(**_: Any) -> None:
    # First: it decides how the processes of the pool share the metrics that are built then.
    settings = Settings()
    metrics_server.serve_pool(
        settings.metrics_host,
        settings.metrics_port,
        "allocation",
        celery_internals.place_in_pool,
    )
    app.build()


@worker_process_init.connect
def _leave_the_parents_connections(**_: Any) -> None:
    """A forked child must not share its parent's database connections, nor close them."""
    app.dependencies.engine.dispose(close=False)
    metrics_server.leave_to_parent()
    tracing.start("allocation-worker", app.dependencies.settings.broker_transport)


@worker_process_shutdown.connect
def _end_connections_of_its_own(**_: Any) -> None:
    if app.direct_events is not None:
        app.direct_events.close()
    tracing.stop()
