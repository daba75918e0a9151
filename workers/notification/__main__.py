"""The notification service: `python -m workers.notification` mails people about what needs them."""

import threading
from datetime import timedelta
from pathlib import Path

from sqlalchemy import Engine

from workers import database, logs
from workers.envelope import Envelope
from workers.inbox import Inbox
from workers.notification import mailing
from workers.notification.messages import parse
from workers.notification.postbox import postbox
from workers.notification.sender import Sender
from workers.notification.tables import VERSION_TABLE, metadata
from workers.settings import Settings
from workers.subscriber import Subscriber

QUEUE = "notification.events"
MIGRATIONS = Path(__file__).with_name("migrations")


def open_database(settings: Settings) -> Engine:
    """The notification service's database, with the tables of this version."""
    engine = database.engine(settings.notification_database_url)
    database.upgrade(engine, MIGRATIONS, VERSION_TABLE)
    return engine


def main() -> None:
    """Note mails from the events and send them, until stopped."""
    settings = Settings()
    logs.configure(settings)
    engine = open_database(settings)
    patience = timedelta(seconds=settings.subscriber_patience)
    inbox = Inbox(engine, metadata, mailing.apply, patience)
    sender = Sender(
        engine,
        postbox(settings.notification_smtp_url, settings.allocation_state_dir / "mails"),
        {
            "from": settings.notification_from,
            "stock": settings.notification_stock_team,
            "orders": settings.notification_orders_team,
        },
    )

    def handle(event: Envelope) -> None:
        parse(event)  # an event that can't be understood must not be noted as received
        inbox.take(event)

    stop = threading.Event()
    sending = threading.Thread(target=sender.run, args=(stop,), name="sender")
    sending.start()
    try:
        Subscriber(settings, QUEUE, handle, inbox.give_up_waiting).run_until_signalled()
    finally:
        stop.set()
        sending.join()


if __name__ == "__main__":
    main()
