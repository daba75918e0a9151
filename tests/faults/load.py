"""A seeded stream of commands, enqueued by a stranger's client and accepted as the API does."""

import queue
import random
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from typing import Any, Literal
from uuid import UUID

from amqp.exceptions import MessageNacked
from celery import Celery
from kombu import Connection
from kombu.exceptions import OperationalError

from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract import codec
from allocation.service_layer.execution import accept
from allocation.service_layer.unit_of_work import ConcurrentUpdate, Message, StorageUnavailable
from tests.faults.system import System
from tests.waiting import eventually

Way = Literal["queue", "accept"]
HOT = "sku-0"
PROBE = "sku-probe"
PLENTY = 100_000

_amqp = Connection("amqp://")
BROKER_ERRORS = (
    OSError,
    OperationalError,
    MessageNacked,
    *_amqp.connection_errors,
    *_amqp.channel_errors,
)
"""Whatever a client meets whose broker is away, or takes nothing."""


@dataclass(slots=True)
class Sent:
    """One command of a caller's: `confirmed_at` is when it was told that the command is safe."""

    id: UUID
    name: str
    body: dict[str, Any]
    way: Way
    tries: int = 0
    begun_at: float = 0.0
    confirmed_at: float | None = None


class Sender(threading.Thread, ABC):
    """Sends what it is given, each command again under its id until the other side confirms it."""

    def __init__(self, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.todo: queue.Queue[Sent | None] = queue.Queue()
        self.errors: list[str] = []
        self.stopping = threading.Event()

    def run(self) -> None:
        while (sent := self.todo.get()) is not None:
            sent.begun_at = time.time()
            while not self.stopping.is_set():
                sent.tries += 1
                if problem := self.attempt(sent):
                    self.errors.append(problem)
                    self.stopping.wait(0.2)
                    continue
                sent.confirmed_at = time.time()
                break
            self.todo.task_done()

    @abstractmethod
    def attempt(self, sent: Sent) -> str | None:
        """Send it once; None when it is safe, else what went wrong."""


class QueueSender(Sender):
    """What another service has: Celery, an address and names; it asks for confirms."""

    def __init__(self, broker_url: str) -> None:
        super().__init__("queue-sender")
        self._celery = Celery(broker=broker_url)
        self._url = broker_url
        self._connection: Connection | None = None

    def attempt(self, sent: Sent) -> str | None:
        try:
            if self._connection is None:
                self._connection = Connection(
                    self._url,
                    connect_timeout=3,
                    transport_options={
                        "confirm_publish": True,
                        "read_timeout": 5,
                        "write_timeout": 5,
                    },
                )
                self._producer = self._connection.Producer()
            self._celery.send_task(
                sent.name,
                kwargs=sent.body,
                task_id=str(sent.id),
                exchange="allocation.commands",
                routing_key="allocation.commands",
                producer=self._producer,
                # Else Celery declares its own default queue, which lives on one node of a cluster.
                declare=[],
                mandatory=True,
                retry=False,
                confirm_timeout=5,
            )
        except BROKER_ERRORS as error:
            with suppress(*BROKER_ERRORS):
                if self._connection is not None:
                    self._connection.close()
            self._connection = None
            return repr(error)
        return None


class AcceptSender(Sender):
    """The accept path of the API: the command's row and its outbox row, in one transaction."""

    def __init__(self, system: System) -> None:
        super().__init__("accept-sender")
        self._system = system

    def attempt(self, sent: Sent) -> str | None:
        message = Message(sent.id, codec.parse_command(sent.name, sent.body), sent.id)
        try:
            accept(message, SqlUnitOfWork(self._system.engine))
        except (StorageUnavailable, ConcurrentUpdate) as error:
            return repr(error)
        return None


@dataclass
class Load:
    """Makes commands by a seeded chance, and remembers each that was confirmed."""

    system: System
    seed: int
    skus: int = 6
    sent: dict[UUID, Sent] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._chance = random.Random(self.seed)
        self._senders: dict[Way, Sender] = {
            "queue": QueueSender(self.system.addresses.broker),
            "accept": AcceptSender(self.system),
        }
        for sender in self._senders.values():
            sender.start()
        self._orders = 0
        self._batches: list[str] = []
        self._lines: list[tuple[str, str]] = []
        self._held: list[str] = []
        self._shipped: list[tuple[str, str]] = []
        self._blocked: list[str] = []
        self._returns = 0
        self._probes = 0

    @property
    def errors(self) -> list[str]:
        """What the senders met, each followed by another try."""
        return [error for sender in self._senders.values() for error in sender.errors]

    def confirmed(self) -> dict[UUID, Sent]:
        """Every command that its caller was told is safe."""
        return {key: sent for key, sent in self.sent.items() if sent.confirmed_at is not None}

    def prepare(self) -> None:
        """Put stock of every sku on the books."""
        made = [
            self.give(
                "allocation.create_batch",
                {"batchref": f"base-{sku}", "sku": sku, "qty": PLENTY if sku == PROBE else 500},
                "accept",
            )
            for sku in (*self._skus(), PROBE)
        ]
        self.flush()
        ids = {sent.id for sent in made}
        eventually(
            lambda: ids <= self.decided(),
            within=60,
            what="the first batches on the books",
        )

    def decided(self) -> set[UUID]:
        """The commands with an outcome."""
        with self.system.engine.connect() as connection:
            rows = connection.exec_driver_sql("SELECT id FROM commands WHERE status <> 'pending'")
            return {UUID(str(row.id)) for row in rows}

    def give(
        self, name: str, body: dict[str, Any], way: Way, command_id: UUID | None = None
    ) -> Sent:
        """Hand one command to a sender."""
        sent = Sent(command_id or self._uuid(), name, body, way)
        self.sent[sent.id] = sent
        self._senders[way].todo.put(sent)
        return sent

    def send(self, count: int, rate: float | None = None) -> None:
        """Send `count` commands, `rate` a second or all at once; wait until each is confirmed."""
        self._give_many(count, rate, threading.Event())
        self.flush()

    @contextmanager
    def running(self, rate: float) -> Iterator[None]:
        """A steady stream while the block lasts; all of it is confirmed when this ends."""
        stop = threading.Event()
        giver = threading.Thread(target=self._give_many, args=(10**9, rate, stop), daemon=True)
        giver.start()
        try:
            yield
        finally:
            stop.set()
            giver.join()
        self.flush()

    def flush(self, within: float = 90) -> None:
        """Wait until every command given so far is confirmed."""

        def all_confirmed() -> bool:
            return not any(sender.todo.unfinished_tasks for sender in self._senders.values())

        try:
            eventually(all_confirmed, within=within, what="every command confirmed")
        except AssertionError as failure:
            failure.add_note("the senders' last errors: " + "; ".join(self.errors[-5:]))
            raise

    def probe(self) -> list[Sent]:
        """One fresh order line by each way."""
        self._probes += 1
        return [
            self.give(
                "allocation.allocate",
                {"orderid": f"probe-{self._probes}-{way}", "sku": PROBE, "qty": 1},
                way,
            )
            for way in self._senders
        ]

    def close(self) -> None:
        """End the senders."""
        for sender in self._senders.values():
            sender.stopping.set()
            sender.todo.put(None)

    def _skus(self) -> list[str]:
        return [f"sku-{number}" for number in range(self.skus)]

    def _uuid(self) -> UUID:
        return UUID(int=self._chance.getrandbits(128), version=4)

    def _give_many(self, count: int, rate: float | None, stop: threading.Event) -> None:
        begun = time.monotonic()
        for number in range(count):
            if rate is not None and stop.wait(max(0.0, begun + number / rate - time.monotonic())):
                return
            if stop.is_set():
                return
            name, body = self._command()
            sent = self.give(name, body, self._chance.choice(("queue", "accept")))
            if self._chance.random() < 0.02:  # a caller that is not sure says it again
                self._senders["queue"].todo.put(Sent(sent.id, name, body, "queue"))

    def _command(self) -> tuple[str, dict[str, Any]]:
        chance = self._chance
        kind = chance.random()
        sku = HOT if chance.random() < 0.4 else chance.choice(self._skus())
        if kind < 0.70 or not self._lines or not self._batches:
            if kind > 0.92 or not self._batches:
                return self._new_batch(sku)
            self._orders += 1
            line = (f"order-{self._orders}", sku)
            body = {
                "orderid": line[0],
                "sku": sku,
                # Some want more than there ever is: they wait, and people hear of it.
                "qty": 50_000 if chance.random() < 0.04 else chance.randint(1, 3),
            }
            body |= self._wishes()
            if chance.random() < 0.1:
                self._held.append(line[0])
                # Longer than any of this takes.
                return "allocation.reserve", body | {"ttl": 7200}
            self._lines.append(line)
            return "allocation.allocate", body
        if self._held and chance.random() < 0.2:
            orderid = self._held.pop(chance.randrange(len(self._held)))
            return chance.choice(["allocation.confirm", "allocation.release"]), {"orderid": orderid}
        if kind < 0.82:
            if chance.random() < 0.7:
                return self._change_of_line()
            orderid, sku = self._lines.pop(chance.randrange(len(self._lines)))
            if chance.random() < 0.3:
                return "allocation.cancel_order", {"orderid": orderid}
            return "allocation.deallocate", {"orderid": orderid, "sku": sku}
        batchref = chance.choice(self._batches[-30:])
        if kind < 0.92 and chance.random() < 0.4:
            return self._change_of_batch(batchref)
        if kind < 0.87:
            return "allocation.change_batch_quantity", {
                "batchref": batchref,
                "qty": chance.randint(0, 60),
            }
        if kind < 0.90:
            return "allocation.change_batch_eta", {"batchref": batchref, "eta": self._day()}
        if kind < 0.92:
            return "allocation.write_off", {
                "batchref": batchref,
                "qty": chance.randint(1, 9),
                "reason": "water damage",
            }
        return self._new_batch(sku)

    def _wishes(self) -> dict[str, Any]:
        """What a few lines want besides."""
        chance = self._chance
        wishes: dict[str, Any] = {}
        if chance.random() < 0.2:
            wishes["priority"] = chance.randint(1, 3)
        if chance.random() < 0.03:
            wishes["not_before"] = self._day()
        if chance.random() < 0.05:
            wishes["fresh_days"] = 10
        return wishes

    def _change_of_line(self) -> tuple[str, dict[str, Any]]:
        """Some pieces leave or come back; the line wants another quantity or priority."""
        chance = self._chance
        orderid, sku = chance.choice(self._lines[-100:])
        line = {"orderid": orderid, "sku": sku}
        kind = chance.random()
        if kind < 0.35:
            self._shipped.append((orderid, sku))
            return "allocation.dispatch", line | {"qty": chance.randint(1, 2)}
        if kind < 0.55 and self._shipped:
            orderid, sku = chance.choice(self._shipped[-20:])
            self._returns += 1
            return "allocation.return_goods", {
                "orderid": orderid,
                "sku": sku,
                "qty": 1,
                "batchref": f"base-{sku}" if chance.random() < 0.5 else f"back-{self._returns}",
                "usable": chance.random() < 0.8,
            }
        if kind < 0.85:
            return "allocation.change_line_quantity", line | {"qty": chance.randint(1, 5)}
        return "allocation.change_priority", {"orderid": orderid, "priority": chance.randint(0, 5)}

    def _change_of_batch(self, batchref: str) -> tuple[str, dict[str, Any]]:
        """It gets more pieces or another last day, is held back, or serves again."""
        chance = self._chance
        kind = chance.random()
        if kind < 0.3:
            return "allocation.receive", {"batchref": batchref, "qty": chance.randint(1, 9)}
        if kind < 0.6:
            day = chance.choice([None, self._day(), _days_ago(2)])
            return "allocation.change_best_before", {"batchref": batchref, "best_before": day}
        if kind < 0.8 and self._blocked:
            return "allocation.unblock_batch", {"batchref": self._blocked.pop()}
        if kind > 0.9:  # one that serves many lines
            batchref = f"base-{chance.choice(self._skus()[1:])}"
        self._blocked.append(batchref)
        return "allocation.block_batch", {"batchref": batchref, "reason": "recall 7"}

    def _day(self) -> str:
        """Ships come once a week: for a piece that is freed, one line moves from each later day."""
        return str(date(2030, 1, 1) + timedelta(weeks=self._chance.randrange(9)))

    def _new_batch(self, sku: str) -> tuple[str, dict[str, Any]]:
        batchref = f"batch-{len(self._batches)}"
        self._batches.append(batchref)
        body: dict[str, Any] = {"batchref": batchref, "sku": sku, "qty": 15 + len(batchref)}
        kind = self._chance.random()
        if kind < 0.45:
            body["eta"] = self._day()
        elif kind < 0.5:
            body["eta"] = _days_ago(3)  # overdue at once
        elif kind < 0.55:
            body["best_before"] = _days_ago(2)  # expired at once
        if kind < 0.15:
            body["best_before"] = "2030-03-31"
        return "allocation.create_batch", body


def _days_ago(days: int) -> str:
    return str(datetime.now(UTC).date() - timedelta(days=days))
