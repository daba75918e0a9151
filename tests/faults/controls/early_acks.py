"""A worker that acknowledges before the work, as Celery does unless told otherwise."""

from allocation.entrypoints.worker.app import app
from allocation.entrypoints.worker.tasks import CommandTask

__all__ = ["app"]

# Not by the app's settings: a task has read them once it is registered.
CommandTask.acks_late = False
CommandTask.reject_on_worker_lost = False
