"""A worker that acknowledges before the work, as Celery does unless told otherwise."""

from allocation.entrypoints.worker.app import app

app.conf.update(task_acks_late=False, task_reject_on_worker_lost=False)
