"""The Celery application, where `celery -A allocation` looks for it."""

from allocation.entrypoints.worker.app import app as app
