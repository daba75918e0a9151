"""The Celery application: `celery -A allocation worker` finds it as `app`."""

from functools import cache
from typing import Any

from celery import Celery
from celery.signals import setup_logging, worker_process_init, worker_process_shutdown

from allocation import bootstrap, logs, tracing
from allocation.adapters.dead_letters import Mover

app = Celery(
    "allocation", include=["allocation.tasks"], events="allocation.adapters.celery_events:Events"
)
app.config_from_object("celeryconfig")


@cache
def mover() -> Mover:
    """What the worker's main process sets messages aside with."""
    return Mover(app.connection_for_write)


@setup_logging.connect
def _configure_logs(**_: Any) -> None:
    logs.configure(bootstrap.settings())


@worker_process_init.connect
def _leave_the_parents_connections(**_: Any) -> None:
    """A forked child must not share its parent's database connections, nor close them."""
    bootstrap.engine(bootstrap.settings().database_url).dispose(close=False)
    tracing.start("worker", bootstrap.settings())


@worker_process_shutdown.connect
def _send_the_last_spans(**_: Any) -> None:
    tracing.stop()
