"""Sends the stored mails: each is retried until the server accepts it or refuses it for good."""

import threading
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from typing import Any
from uuid import UUID

import structlog
from prometheus_client import CollectorRegistry, Counter
from sqlalchemy import Engine, Row, select, update
from sqlalchemy.exc import DBAPIError

from allocation.messaging import backoff
from workers.notification.mail_backends import MailBackend, Refused
from workers.notification.tables import mails

log = structlog.get_logger(__name__)

LEASE = timedelta(seconds=60)
"""A mail that a sender claimed is tried by another one after this time, as the first has died."""
LONGEST_BACKOFF = 300.0  # seconds between two tries of one mail


class Sender:
    """Any number of senders may run side by side.

    A mail is sent twice if the sender dies between the server's reply and the commit; both have the
    same Message-ID, by which mail programs deduplicate.
    """

    def __init__(
        self,
        engine: Engine,
        backend: MailBackend,
        addresses: Mapping[str, str],
        registry: CollectorRegistry,
    ) -> None:
        """`addresses` has the keys from, stock and orders."""
        self._engine = engine
        self._backend = backend
        self._addresses = addresses
        self._mails = Counter(
            "notification_mails",
            "Attempts to send a mail by result: sent, refused (not retried), put_off (retried"
            " later).",
            ["result"],
            registry=registry,
        )
        for result in ("sent", "refused", "put_off"):
            self._mails.labels(result)

    def run(self, stop: threading.Event, every: float = 0.2) -> None:
        """Send what is due until `stop` is set; outlives an absent database or mail server."""
        failures = 0
        while not stop.is_set():
            try:
                wait = 0 if self.send_one() else every
                failures = 0
            except DBAPIError as error:
                failures += 1
                wait = backoff.seconds(failures)
                log.warning("no mails can be read", error=str(error.orig), again_in=round(wait, 1))
            stop.wait(wait)

    def send_one(self) -> bool:
        """Try the mail that has been due longest; False if none is due."""
        row = self._claim()
        if row is None:
            return False
        about = {"orderid": row.orderid, "sku": row.sku, "trace_id": row.trace_id}
        names = {"event_id": str(row.event_id)} | {k: v for k, v in about.items() if v is not None}
        try:
            self._backend.send(self._mail(row))
        except (Refused, ValueError) as refusal:  # ValueError: it can't be written as a mail
            log.error("a mail was refused for good", why=str(refusal), **names)
            self._mark(row.event_id, status="failed", error=str(refusal))
            self._mails.labels("refused").inc()
        except OSError as error:  # smtplib's own errors are among these
            delay = backoff.seconds(row.tries, LONGEST_BACKOFF)
            log.warning(
                "a mail could not be sent; it will be retried",
                error=str(error),
                again_in=round(delay),
                **names,
            )
            not_before = datetime.now(UTC) + timedelta(seconds=delay)
            self._mark(row.event_id, not_before=not_before, error=str(error))
            self._mails.labels("put_off").inc()
        else:
            log.info("mail sent", subject=row.subject, **names)
            self._mark(row.event_id, status="sent", sent_at=datetime.now(UTC), error=None)
            self._mails.labels("sent").inc()
        return True

    def _claim(self) -> Row[Any] | None:
        now = datetime.now(UTC)
        due = (
            select(mails.c.event_id)
            .where(mails.c.status == "pending", mails.c.not_before <= now)
            .order_by(mails.c.not_before)
            .limit(1)
            .with_for_update(skip_locked=True)
            .scalar_subquery()
        )
        with self._engine.begin() as connection:
            return connection.execute(
                update(mails)
                .where(mails.c.event_id == due)
                .values(not_before=now + LEASE, tries=mails.c.tries + 1)
                .returning(*mails.c)
            ).one_or_none()

    def _mark(self, event_id: UUID, **values: object) -> None:
        with self._engine.begin() as connection:
            connection.execute(update(mails).where(mails.c.event_id == event_id).values(**values))

    def _mail(self, row: Row[Any]) -> EmailMessage:
        mail = EmailMessage()
        mail["Message-ID"] = f"<{row.event_id}@allocation.notification>"
        mail["From"] = self._addresses["from"]
        mail["To"] = self._addresses[row.team]
        mail["Subject"] = " ".join(row.subject.splitlines())
        mail["Date"] = row.created_at
        mail.set_content(row.text)
        return mail
