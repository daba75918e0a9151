"""The Celery application, where `celery -A allocation` looks for it."""

from allocation.messaging import garbage_collection

garbage_collection.relax()

from allocation.entrypoints.worker.app import app as app  # noqa: E402 - after `relax`
