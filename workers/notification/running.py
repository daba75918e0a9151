"""The notification service's queue, given to the kit, and the thread that sends the mails."""

from pathlib import Path

from prometheus_client import CollectorRegistry
from sqlalchemy import Engine

from allocation.messaging.migrations import Migrations
from workers import wiring
from workers.notification import mailing
from workers.notification.mail_backends import mail_backend
from workers.notification.messages import parse
from workers.notification.sender import Sender
from workers.notification.settings import Settings
from workers.notification.tables import VERSION_TABLE, metadata

LINGER = 0.1
"""Seconds: a mail may be that much later."""
MIGRATIONS = Migrations(Path(__file__).with_name("migrations"), metadata, VERSION_TABLE)


def consume() -> None:
    """Write mails about the events, and send them, until stopped."""
    settings = Settings()

    def background(engine: Engine, registry: CollectorRegistry) -> wiring.Background:
        addresses = {
            "from": settings.notification_from,
            "stock": settings.notification_stock_team,
            "orders": settings.notification_orders_team,
        }
        folder = settings.allocation_state_dir / "mails"
        backend = mail_backend(settings.notification_smtp_url, folder)
        return Sender(engine, backend, addresses, registry).run

    wiring.consume(
        settings,
        name="notification",
        database_url=settings.notification_database_url,
        metrics_port=settings.notification_metrics_port,
        migrations=MIGRATIONS,
        parse=parse,
        apply=mailing.apply,
        background=background,
        linger=LINGER,
    )
