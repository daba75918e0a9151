"""The notification service's mails, on a real SMTP server."""

import email
import email.policy
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from functools import partial
from itertools import count as counting
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import AuthResult
from kombu import Connection
from prometheus_client import CollectorRegistry
from sqlalchemy import Engine, select, update

from allocation.adapters.rabbitmq import topology
from allocation.messaging import database
from allocation.messaging.cloudevents import Envelope
from allocation.messaging.resequencer import Resequencer
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually
from tests.workers.conftest import envelope, event, publish
from workers.notification import mailing, tables
from workers.notification.mail_backends import MailFolder, SmtpServer
from workers.notification.running import MIGRATIONS
from workers.notification.sender import Sender

ADDRESSES = {"from": "us@shop.test", "stock": "stock@shop.test", "orders": "orders@shop.test"}


class Letterbox:
    """What the SMTP server does with a mail: keeps it, or refuses a recipient for good."""

    def __init__(self) -> None:
        self.mails: list[Any] = []
        self.refuse = False
        self.password = ""
        self.logins: set[str] = set()

    def __call__(self, server: Any, session: Any, envelope: Any, how: str, who: Any) -> AuthResult:
        """Whether the user may send."""
        right: bool = who.password.decode() == self.password
        if right:
            self.logins.add(who.login.decode())
        return AuthResult(success=right, handled=False)

    async def handle_RCPT(  # noqa: N802 - the library's name
        self, server: Any, session: Any, envelope: Any, address: str, options: Any
    ) -> str:
        if self.refuse:
            return "550 no such mailbox"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        mail = email.message_from_bytes(envelope.content, policy=email.policy.default)
        self.mails.append(mail)
        return "250 OK"

    def summary(self) -> list[tuple[str, str]]:
        return [(str(mail["To"]), str(mail["Subject"])) for mail in self.mails]


@pytest.fixture
def letterbox() -> Letterbox:
    """Empty."""
    return Letterbox()


class Smtp:
    """An SMTP server on one port; it may be stopped and started again."""

    def __init__(self, letterbox: Letterbox) -> None:
        [self.port] = free_ports(1)
        self._letterbox = letterbox
        self._running: Controller | None = None

    def start(self) -> None:
        self._running = Controller(
            self._letterbox,
            hostname="127.0.0.1",
            port=self.port,
            authenticator=self._letterbox,
            auth_require_tls=False,
        )
        self._running.start()

    def stop(self) -> None:
        if self._running is not None:
            self._running.stop()
        self._running = None


@pytest.fixture
def smtp(letterbox: Letterbox) -> Iterator[Smtp]:
    """A server that listens."""
    server = Smtp(letterbox)
    server.start()
    yield server
    server.stop()


@dataclass
class Notification:
    """The service as a process on RabbitMQ and PostgreSQL."""

    engine: Engine
    tell: Callable[..., None]
    environment: dict[str, str]
    processes: Callable[..., Process]

    def start(self, **settings: str) -> Process:
        process = self.processes(
            [sys.executable, "-m", "workers.notification"],
            name="notification",
            env=self.environment | settings,
        )
        process.wait_for_log("ready: consuming")
        return process


@pytest.fixture
def notification(
    processes: Callable[..., Process], broker_url: str, empty_database_url: str, state_dir: Path
) -> Iterator[Notification]:
    """With every queue declared, not started yet."""
    with Connection(broker_url) as connection:
        topology.declare(connection)
    environment = {
        "ALLOCATION_BROKER_URL": broker_url,
        "ALLOCATION_STATE_DIR": str(state_dir),
        "NOTIFICATION_DATABASE_URL": empty_database_url,
        "NOTIFICATION_STOCK_TEAM": "stock@shop.test",
    }
    engine = database.engine(empty_database_url)
    yield Notification(engine, partial(publish, broker_url), environment, processes)
    engine.dispose()


def url(smtp: Smtp) -> str:
    return f"smtp://127.0.0.1:{smtp.port}"


@pytest.fixture
def engine(worker_engine: Engine) -> Engine:
    """The notification service's tables."""
    MIGRATIONS.upgrade(worker_engine)
    return worker_engine


@pytest.fixture
def inbox(engine: Engine) -> Resequencer:
    """Notes mails from events."""
    return Resequencer(engine, tables.metadata, mailing.apply, timedelta(seconds=60))


def send_all(engine: Engine, smtp: Smtp) -> None:
    sender = Sender(engine, SmtpServer(url(smtp)), ADDRESSES, CollectorRegistry())
    while sender.send_one():
        pass


def moved(inbox: Resequencer, cause: str = "change_batch_quantity") -> None:
    """A line that leaves one batch and gets another."""
    inbox.take([envelope("allocated", 1, orderid="o1", batchref="b1")])
    inbox.take([envelope("deallocated", 2, cause, orderid="o1", batchref="b1")])
    inbox.take([envelope("allocated", 3, orderid="o1", batchref="b2")])


def test_the_right_team_is_mailed_once_however_often_an_event_comes(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """The stock team of a line that waits, the orders team of one that moved."""
    for _ in range(2):
        moved(inbox)
        inbox.take([envelope("out_of_stock", 4, orderid="o2", qty=5)])

    send_all(engine, smtp)

    assert letterbox.summary() == [
        ("orders@shop.test", "Order o1 moved to batch b2"),
        ("stock@shop.test", "Out of stock: 5 x LAMP for order o2"),
    ]


def test_the_stock_team_is_mailed_about_what_happens_to_a_batch_and_to_goods_that_come_back(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """Once, however often the events come; and not about an expired batch without pieces."""
    batch: dict[str, Any] = {"batchref": "b1"}
    for _ in range(2):
        inbox.take([envelope("batch_blocked", 1, "block_batch", **batch, qty=40, reason="mould")])
        inbox.take([envelope("batch_expired", 2, "expire_batch", **batch, qty=12)])
        inbox.take([envelope("batch_expired", 3, "expire_batch", batchref="b2", qty=0)])
        inbox.take([envelope("batch_overdue", 4, "mark_overdue", **batch)])
        inbox.take([envelope("returned", 5, "return_goods", usable=False, reason="broken")])
        inbox.take([envelope("returned", 6, "return_goods", usable=True)])

    send_all(engine, smtp)

    assert letterbox.summary() == [
        ("stock@shop.test", "Blocked: batch b1 of LAMP"),
        ("stock@shop.test", "Expired: 12 x LAMP of batch b1"),
        ("stock@shop.test", "Overdue: batch b1 of LAMP"),
        ("stock@shop.test", "Returned and not usable: 2 x LAMP of order order-1"),
    ]
    assert [mail.get_content().replace("\r", "") for mail in letterbox.mails] == [
        "The batch b1 of 40 x LAMP serves no order until it is unblocked.\nReason: mould\n",
        "The batch b1 was good until 2030-06-30.\n"
        "Its 12 x LAMP serve no order any more; the orders that had them are served from other"
        " batches, or wait.\n",
        "The batch b1 of LAMP should have arrived on 2029-12-01.\n"
        "Its orders keep their promises; further orders are served from other batches first.\n",
        "Of the order order-1, 2 x LAMP came back that can't be used. They are no stock.\n"
        "Reason: broken\n",
    ]


@pytest.mark.parametrize("cause", ["block_batch", "expire_batch", "change_best_before"])
def test_lines_that_lose_their_batch_are_mailed_as_after_any_loss(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox, cause: str
) -> None:
    moved(inbox, cause)

    send_all(engine, smtp)

    assert letterbox.summary() == [("orders@shop.test", "Order o1 moved to batch b2")]


def test_a_line_that_its_caller_changes_or_cancels_leads_to_no_mail(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """The promise is published anew, from the same batch; but another day is mailed."""
    line: dict[str, Any] = {"orderid": "o1", "batchref": "b1"}
    change = "change_line_quantity"
    inbox.take([envelope("allocated", 1, **line, qty=5)])
    inbox.take([envelope("line_quantity_changed", 2, change, orderid="o1", old_qty=5, qty=2)])
    inbox.take([envelope("deallocated", 3, change, **line, qty=5)])
    inbox.take([envelope("allocated", 4, change, **line, qty=2)])
    inbox.take([envelope("line_quantity_changed", 5, change, orderid="o1", old_qty=2, qty=9)])
    inbox.take([envelope("deallocated", 6, change, **line, qty=2)])
    line["batchref"] = "b2"
    inbox.take([envelope("allocated", 7, change, **line, qty=9)])
    days: dict[str, Any] = {"old_eta": "2030-01-31", "new_eta": "2030-02-15"}
    inbox.take([envelope("promise_changed", 8, change, **line, qty=9, **days)])
    inbox.take([envelope("deallocated", 9, "cancel_order", **line, qty=9)])
    inbox.take([envelope("allocated", 10, "allocate", **line | {"batchref": "b3"}, qty=9)])

    send_all(engine, smtp)

    assert letterbox.summary() == [("orders@shop.test", "New day for order o1: arrives 2030-02-15")]


def test_a_promise_that_improves_is_mailed_once_with_both_days(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    line: dict[str, Any] = {"orderid": "o1", "qty": 3}
    improve = "allocate_waiting"
    inbox.take([envelope("allocated", 1, **line, batchref="ship", eta="2030-01-31")])
    inbox.take([envelope("deallocated", 2, improve, **line, batchref="ship")])
    inbox.take([envelope("allocated", 3, improve, **line, batchref="shelf", eta=None)])
    days: dict[str, Any] = {"old_eta": "2030-01-31", "new_eta": None}
    inbox.take([envelope("promise_changed", 4, improve, **line, batchref="shelf", **days)])

    send_all(engine, smtp)

    assert letterbox.summary() == [("orders@shop.test", "Order o1 moved to batch shelf")]
    assert (
        letterbox.mails[0]
        .get_content()
        .endswith("Now: on the shelf\r\nBefore: arrives 2030-01-31\r\n")
    )


def test_a_batch_leads_to_the_same_mails_as_its_events_one_by_one(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """Lines move within it and over its ends, back and forth and to nowhere."""

    def promised(sequence: int, orderid: str, batchref: str) -> Envelope:
        return envelope("allocated", sequence, orderid=orderid, batchref=batchref)

    def taken(sequence: int, orderid: str, batchref: str, by: str) -> Envelope:
        return envelope("deallocated", sequence, by, orderid=orderid, batchref=batchref)

    inbox.take([promised(1, "o1", "b1"), taken(2, "o1", "b1", "change_batch_quantity")])
    inbox.take(
        [
            envelope("out_of_stock", 3, orderid="o1", qty=3),
            promised(4, "o1", "b2"),
            promised(5, "o2", "b1"),
            taken(6, "o2", "b1", "change_batch_quantity"),
            promised(7, "o2", "b1"),
            promised(8, "o3", "b1"),
            taken(9, "o3", "b1", "deallocate"),
            promised(10, "o3", "b2"),
            taken(11, "o1", "b2", "change_batch_quantity"),
        ]
    )
    inbox.take([envelope("batch_created", 12), promised(13, "o1", "b3")])

    send_all(engine, smtp)

    assert [subject for _, subject in letterbox.summary()] == [
        "Out of stock: 3 x LAMP for order o1",
        "Order o1 moved to batch b2",
        "Order o1 moved to batch b3",
    ]


def test_a_line_that_was_given_up_and_ordered_again_did_not_move(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """Its caller knows."""
    moved(inbox, cause="deallocate")

    send_all(engine, smtp)

    assert letterbox.mails == []


def test_a_move_over_a_wait_is_still_a_move(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """The line found no stock at first."""
    inbox.take([envelope("deallocated", 1, "change_batch_quantity", orderid="o1", batchref="b1")])
    inbox.take([envelope("out_of_stock", 2, orderid="o1", qty=3)])
    inbox.take([envelope("allocated", 3, orderid="o1", batchref="b2")])

    send_all(engine, smtp)

    assert [subject for _, subject in letterbox.summary()] == [
        "Out of stock: 3 x LAMP for order o1",
        "Order o1 moved to batch b2",
    ]


def test_a_move_is_mailed_though_its_second_half_comes_late(
    engine: Engine, smtp: Smtp, letterbox: Letterbox
) -> None:
    """Nothing newer is known of the line."""
    impatient_about_a_missing(engine, 2)

    send_all(engine, smtp)

    assert letterbox.summary() == [("orders@shop.test", "Order o1 moved to batch b2")]


def test_a_move_whose_first_half_comes_late_is_not_mailed(
    engine: Engine, smtp: Smtp, letterbox: Letterbox
) -> None:
    """Where the line went since then has passed by, and it must not seem to be on the move."""
    inbox = impatient_about_a_missing(engine, 1)
    inbox.take([envelope("allocated", 4, orderid="o1", batchref="b3")])

    send_all(engine, smtp)

    assert letterbox.mails == []


def impatient_about_a_missing(engine: Engine, sequence: int) -> Resequencer:
    """A line moves, and the event of this number comes when it was given up."""
    ticks = counting()
    inbox = Resequencer(
        engine,
        tables.metadata,
        mailing.apply,
        timedelta(0),
        lambda: datetime(2030, 1, 1, tzinfo=UTC) + timedelta(seconds=next(ticks)),
    )
    events = [
        envelope("deallocated", 1, "change_batch_quantity", orderid="o1", batchref="b1"),
        envelope("allocated", 2, orderid="o1", batchref="b2"),
        envelope("batch_created", 3),
    ]
    late = events.pop(sequence - 1)
    for each in [*events, late]:
        inbox.take([each])
        inbox.give_up_waiting()
    return inbox


def test_a_mail_has_the_same_message_id_each_time(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """Should it be sent twice, mail programs know it as one."""
    inbox.take([envelope("out_of_stock", 1)])
    send_all(engine, smtp)
    with engine.begin() as connection:
        connection.execute(
            update(tables.mails).values(
                status="pending", not_before=datetime(2000, 1, 1, tzinfo=UTC)
            )
        )

    send_all(engine, smtp)

    ids = {str(mail["Message-ID"]) for mail in letterbox.mails}
    assert (len(letterbox.mails), len(ids)) == (2, 1)


def test_a_server_that_is_down_gets_the_mail_when_it_is_up_again(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """With growing pauses, and the reason in the row."""
    smtp.stop()
    inbox.take([envelope("out_of_stock", 1)])
    stop = threading.Event()
    sender = Sender(engine, SmtpServer(url(smtp)), ADDRESSES, CollectorRegistry())
    sending = threading.Thread(target=sender.run, args=(stop, 0.05))
    sending.start()
    try:
        eventually(lambda: row(engine).error, what="a try that failed")
        smtp.start()
        eventually(lambda: letterbox.mails, what="the mail")
        eventually(lambda: row(engine).status == "sent", what="the mark")
    finally:
        stop.set()
        sending.join()
    assert len(letterbox.mails) == 1


def test_a_refused_recipient_is_recorded_and_not_tried_again(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """Somebody has to mend the address."""
    letterbox.refuse = True
    inbox.take([envelope("out_of_stock", 1)])

    send_all(engine, smtp)

    assert (row(engine).status, "550" in row(engine).error) == ("failed", True)
    assert not Sender(engine, SmtpServer(url(smtp)), ADDRESSES, CollectorRegistry()).send_one()


def test_a_name_with_a_line_break_stops_no_mail(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """Unicode has some that are no control characters; a subject is one line."""
    inbox.take([envelope("out_of_stock", 1, orderid="o\u20281", qty=2)])

    send_all(engine, smtp)

    assert letterbox.summary() == [("stock@shop.test", "Out of stock: 2 x LAMP for order o 1")]


def test_two_senders_send_each_mail_once(
    engine: Engine, inbox: Resequencer, smtp: Smtp, letterbox: Letterbox
) -> None:
    """A mail in hand is not another's."""
    for sequence in range(1, 31):
        inbox.take([envelope("out_of_stock", sequence, orderid=f"o{sequence}")])

    senders = [threading.Thread(target=send_all, args=(engine, smtp)) for _ in range(3)]
    for sender in senders:
        sender.start()
    for sender in senders:
        sender.join()

    assert len(letterbox.mails) == len(set(letterbox.summary())) == 30


def test_a_file_holds_the_whole_mail(tmp_path: Path) -> None:
    """Written at once or not at all."""
    mail = EmailMessage()
    mail["Message-ID"] = "<abc@allocation.notification>"
    mail["Subject"] = "Hello"
    mail.set_content("text\n")

    MailFolder(tmp_path).send(mail)

    assert [file.name for file in tmp_path.iterdir()] == ["abc.eml"]
    assert b"Subject: Hello" in (tmp_path / "abc.eml").read_bytes()


@pytest.mark.parametrize(
    "address",
    [
        "http://me:s3cret@mail.test:25",
        "smtp://me:s3cret@:25",
        "smtp://me:s3cret/more@mail.test:25",
        "smtp://me:s3cret#more@mail.test:25",
        "smtp://me:[s3cret@mail.test:25",
        "smtp://me:s3cretä@mail.test",
        "smtp://me:s3cret@mail.test:port",
    ],
)
def test_an_address_that_is_no_smtp_server_is_refused_without_its_password(address: str) -> None:
    """The setting is named, so that somebody can mend it."""
    with pytest.raises(ValueError, match="NOTIFICATION_SMTP_URL") as refusal:
        SmtpServer(address)

    assert "s3cret" not in "".join(traceback.format_exception(refusal.value))


def test_the_process_goes_on_hearing_while_the_mail_server_is_away(
    notification: Notification, smtp: Smtp, letterbox: Letterbox
) -> None:
    """And mails all of it afterwards, with its password, which no log shows."""
    smtp.stop()
    address = f"smtp://me%40shop.test:s3cret%2Fword@127.0.0.1:{smtp.port}"
    process = notification.start(NOTIFICATION_SMTP_URL=address)

    notification.tell(event("out_of_stock", 1, orderid="o1", qty=2))
    process.wait_for_log("a mail could not be sent; it will be retried")
    notification.tell(event("out_of_stock", 2, orderid="o2", qty=2))
    eventually(lambda: count(notification.engine) == 2, what="both mails noted")
    letterbox.password = "something else"
    smtp.start()
    process.wait_for_log("535")
    letterbox.password = "s3cret/word"

    eventually(lambda: len(letterbox.mails) == 2, within=20, what="both mails")
    assert {to for to, _ in letterbox.summary()} == {"stock@shop.test"}
    assert letterbox.logins == {"me@shop.test"}
    assert process.stop() == 0
    assert "s3cret" not in process.logs()


def test_without_a_mail_server_the_process_leaves_files(
    notification: Notification, state_dir: Path
) -> None:
    """One for each event, however often it comes."""
    waiting = event("out_of_stock", 1, orderid="o1", qty=2)
    notification.start()

    notification.tell(waiting, waiting, event("out_of_stock", 2, orderid="o2", qty=2), waiting)

    def files() -> list[str]:
        return sorted(file.name for file in (state_dir / "mails").glob("[!.]*"))

    expected = sorted([f"{waiting['id']}.eml", f"{event('out_of_stock', 2)['id']}.eml"])
    eventually(lambda: files() == expected, what="both mails")
    mail = email.message_from_bytes(
        (state_dir / "mails" / f"{waiting['id']}.eml").read_bytes(), policy=email.policy.default
    )
    assert (mail["To"], mail["Subject"], mail["Message-ID"]) == (
        "stock@shop.test",
        "Out of stock: 2 x LAMP for order o1",
        f"<{waiting['id']}@allocation.notification>",
    )


def row(engine: Engine) -> Any:
    with engine.connect() as connection:
        return connection.execute(select(tables.mails)).one()


def count(engine: Engine) -> int:
    with engine.connect() as connection:
        return len(connection.execute(select(tables.mails)).all())
