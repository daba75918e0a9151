"""The work of the notification service's commands."""

import threading
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from allocation.messaging import database
from allocation.messaging.lifecycle import stop_signal
from allocation.messaging.migrations import Migrations
from allocation.messaging.resequencer import Resequencer
from allocation.messaging.telemetry import logs, metrics_server, tracing
from allocation.messaging.telemetry.subscriber_metrics import SubscriberMetrics
from workers import retention
from workers.notification import mailing
from workers.notification.messages import parse
from workers.notification.postbox import postbox
from workers.notification.sender import Sender
from workers.notification.settings import Settings
from workers.notification.tables import VERSION_TABLE, metadata
from workers.wiring import subscriber

QUEUE = "notification.events"
LINGER = 0.1
"""Seconds: a mail may be that much later."""
MIGRATIONS = Migrations(Path(__file__).with_name("migrations"), metadata, VERSION_TABLE)


def consume() -> None:
    """Write mails about the events, and send them, until stopped."""
    stop = stop_signal()
    settings = Settings()
    logs.configure(settings.allocation_log_format)
    metrics = SubscriberMetrics("notification")
    metrics_server.serve(
        metrics.registry,
        settings.allocation_metrics_host,
        settings.notification_metrics_port,
        "notification",
    )
    engine = database.engine(settings.notification_database_url)
    patience = timedelta(seconds=settings.subscriber_patience)
    resequencer = Resequencer(engine, metadata, mailing.apply, patience)
    sender = Sender(
        engine,
        postbox(settings.notification_smtp_url, settings.allocation_state_dir / "mails"),
        {
            "from": settings.notification_from,
            "stock": settings.notification_stock_team,
            "orders": settings.notification_orders_team,
        },
        metrics.registry,
    )

    MIGRATIONS.upgrade_when_reachable(engine, stop)
    tracing.start("notification", settings.broker_transport)
    sending = threading.Thread(target=sender.run, args=(stop,), name="sender")
    sending.start()
    try:
        subscriber(settings, QUEUE, parse, resequencer, metrics, LINGER).run(stop)
    finally:
        stop.set()
        sending.join()
        tracing.stop()


def prune(*, dry_run: bool, as_json: bool) -> None:
    """Delete the ids of events that are more than SUBSCRIBER_KEEP days old; mails stay."""
    settings = Settings()

    def open_database() -> Engine:
        engine = database.engine(settings.notification_database_url)
        MIGRATIONS.upgrade(engine)
        return engine

    keep = settings.subscriber_keep
    retention.prune(open_database, metadata, keep, dry_run=dry_run, as_json=as_json)
