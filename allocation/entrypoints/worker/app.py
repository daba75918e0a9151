"""The Celery application: `celery -A allocation worker` finds it as `app`."""

import sys
from functools import cache
from typing import Any

from celery import Celery
from celery.signals import (
    setup_logging,
    worker_init,
    worker_process_init,
    worker_process_shutdown,
)
from kombu.transport import TRANSPORT_ALIASES

from allocation import bootstrap
from allocation.adapters import metrics
from allocation.messaging.dead_letters import Mover
from allocation.messaging.telemetry import logs, metrics_server, tracing
from allocation.settings import SPOOL_TRANSPORT

# Celery shows its settings to whoever inspects a worker, as Flower does, and reads this URL for it.
TRANSPORT_ALIASES["spool"] = SPOOL_TRANSPORT

app = Celery(
    "allocation",
    include=["allocation.entrypoints.worker.tasks"],
    events="allocation.entrypoints.worker.task_events:Events",
)
app.config_from_object("celeryconfig")

# The `celery` command imports Flower before this module; no other program runs Flower.
if "flower.urls" in sys.modules:
    from allocation.entrypoints.worker import flower

    flower.add_headers()


@cache
def mover() -> Mover:
    """What the worker's main process sets messages aside with."""
    return Mover(app.connection_for_write, metrics.worker().buried)


@setup_logging.connect
def _configure_logs(**_: Any) -> None:
    logs.configure(bootstrap.settings().log_format, bootstrap.settings().log_level)


@worker_init.connect
def _serve_figures(**_: Any) -> None:
    settings = bootstrap.settings()
    metrics_server.serve_pool(settings.metrics_host, settings.metrics_port, "allocation")
    metrics.worker()  # what is 0 is shown


@worker_process_init.connect
def _leave_the_parents_connections(**_: Any) -> None:
    """A forked child must not share its parent's database connections, nor close them."""
    bootstrap.engine(bootstrap.settings().database_url).dispose(close=False)
    metrics_server.leave_to_parent()
    tracing.start("allocation-worker", bootstrap.settings().broker_transport)


@worker_process_shutdown.connect
def _send_the_last_spans(**_: Any) -> None:
    tracing.stop()
