"""What both workers' processes are built from."""

import threading
from collections.abc import Callable
from datetime import timedelta

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from allocation.messaging import database
from allocation.messaging.cloudevents import Envelope
from allocation.messaging.connection import connect
from allocation.messaging.lifecycle import stop_signal
from allocation.messaging.migrations import Migrations
from allocation.messaging.resequencer import Apply, Resequencer
from allocation.messaging.subscriber import Subscriber
from allocation.messaging.telemetry import heartbeat, logs, metrics_server, tracing
from allocation.messaging.telemetry.subscriber_metrics import SubscriberMetrics
from workers.settings import WorkerSettings

Background = Callable[[threading.Event], object]
"""Runs in a thread of its own until the event is set."""


def open_database(url: str, migrations: Migrations) -> Engine:
    """An engine for the database, which gets the tables of this version."""
    engine = database.engine(url)
    migrations.upgrade(engine)
    return engine


def consume(
    settings: WorkerSettings,
    *,
    name: str,
    database_url: str,
    metrics_port: int | None,
    migrations: Migrations,
    parse: Callable[[Envelope], object],
    apply: Apply,
    background: Callable[[Engine, CollectorRegistry], Background],
    linger: float = 0.0,
) -> None:
    """Consume the queue `<name>.events`, and run the background thread beside it, until stopped."""
    stop = stop_signal()
    logs.configure(settings.allocation_log_format)
    metrics = SubscriberMetrics(name)
    metrics_server.serve(metrics.registry, settings.allocation_metrics_host, metrics_port, name)
    engine = database.engine(database_url)
    patience = timedelta(seconds=settings.subscriber_patience)
    resequencer = Resequencer(engine, migrations.metadata, apply, patience)
    thread = threading.Thread(target=background(engine, metrics.registry), args=(stop,))
    migrations.upgrade_when_reachable(engine, stop)
    tracing.start(name, settings.broker_transport)
    thread.start()
    try:
        subscriber(settings, name, parse, resequencer, metrics, linger).run(stop)
    finally:
        stop.set()
        thread.join()
        tracing.stop()


def subscriber(
    settings: WorkerSettings,
    name: str,
    parse: Callable[[Envelope], object],
    resequencer: Resequencer,
    metrics: SubscriberMetrics,
    linger: float = 0.0,
) -> Subscriber:
    """The subscriber of the queue `<name>.events` on the configured broker."""
    return Subscriber(
        f"{name}.events",
        lambda: connect(settings.allocation_broker_url, settings.broker_transport, confirm=True),
        parse,
        resequencer,
        metrics,
        linger=linger,
        missing=": run `allocation topology`",
        alive=lambda: heartbeat.beat(settings.allocation_state_dir, name),
    )
