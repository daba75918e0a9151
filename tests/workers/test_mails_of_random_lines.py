"""Random commands against a Product: the notification service knows which pieces wait."""

from collections import Counter
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from random import Random
from uuid import UUID

import pytest
from sqlalchemy import Engine, select

from allocation.adapters.memory import MemoryBooks
from allocation.contract.codec import cloud_event
from allocation.domain.books import OrderLine
from allocation.domain.commands import AllocateWaiting, ReviewPromises
from allocation.domain.product import Product
from allocation.messaging import database
from allocation.messaging.cloudevents import Envelope, from_json
from allocation.messaging.resequencer import Resequencer
from allocation.service_layer.unit_of_work import Message
from workers.notification import mailing, tables
from workers.notification.running import MIGRATIONS

NOW = datetime(2030, 1, 1, tzinfo=UTC)
DAYS = [None, date(2030, 1, 1), date(2030, 2, 1), date(2030, 3, 1)]
COMMANDS = (
    *("create_batch", "allocate", "allocate", "reserve", "change_batch_quantity", "write_off"),
    *("change_batch_eta", "change_batch_eta", "deallocate", "confirm", "extend", "release"),
    *("dispatch", "dispatch", "change_line_quantity", "change_line_quantity", "cancel_order"),
    *("change_line_quantity", "return_goods", "receive", "block_batch", "unblock_batch"),
    *("change_best_before", "change_priority"),
)


class Shop:
    """One product, and random commands about it; each gives the events that it led to."""

    def __init__(self, seed: int) -> None:
        self.sku = f"LAMP-{seed}"
        self.books = MemoryBooks()
        self._random = Random(seed)
        self._product = Product(self.sku, self.books)
        self._count = 0

    def play(self) -> Iterator[Envelope]:
        """The events of one command and all its follow-ups."""
        self._count += 1
        command = self._random.choice(COMMANDS)
        orderid, batchref = f"o{self._random.randrange(6)}", f"b{self._random.randrange(4)}"
        self._do(command, orderid, f"{self.sku}-{batchref}", self._random.randint(1, 9))
        yield from self._events(command)
        while follow_ups := self._product.pull_follow_ups():
            for follow_up in follow_ups:
                match follow_up:
                    case AllocateWaiting():
                        self._product.allocate_waiting()
                        yield from self._events("allocate_waiting")
                    case ReviewPromises(batchref):
                        self._product.review_promises(batchref)
                        yield from self._events("review_promises")

    def _do(self, command: str, orderid: str, batchref: str, number: int) -> None:
        known = self.books.batch(batchref) is not None
        until = NOW + timedelta(seconds=self._count)
        line = OrderLine(orderid, self.sku, number, split=self._random.random() < 0.8)
        day = self._random.choice(DAYS)
        product = self._product
        match command:
            case "create_batch" if not known:
                product.create_batch(batchref, number, day)
            case "change_batch_quantity" if known:
                product.change_batch_quantity(batchref, number)
            case "write_off" if known:
                product.write_off(batchref, number, "damaged")
            case "change_batch_eta" if known:
                product.change_batch_eta(batchref, day)
            case "allocate":
                product.allocate(line)
            case "reserve":
                product.reserve(line, until)
            case "extend":
                product.extend(orderid, until)
            case "dispatch":
                product.dispatch(orderid, None, self._random.choice([None, 1, 2]))
            case "change_line_quantity":
                product.change_line_quantity(orderid, number)
            case "cancel_order":
                product.cancel(orderid)
            case "return_goods":
                product.return_goods(orderid, 1, batchref, usable=known)
            case "receive" if known:
                product.receive(batchref, number)
            case "block_batch" if known:
                product.block_batch(batchref, "recall")
            case "unblock_batch" if known:
                product.unblock_batch(batchref)
            case "change_best_before" if known:
                product.change_best_before(batchref, day)
            case "change_priority":
                product.change_priority(orderid, number % 3)
            case "deallocate" | "confirm" | "release":
                getattr(product, command)(orderid)

    def _events(self, command: str) -> Iterator[Envelope]:
        for event in self._product.pull_events():
            number = UUID(int=self._count)
            body = cloud_event(event, Message(number, AllocateWaiting(self.sku), number), NOW)
            yield from_json(body | {"causationtype": f"allocation.{command}"})

    def waiting(self) -> Counter[str]:
        """How many pieces of each order wait."""
        pieces: Counter[str] = Counter()
        for line in self.books.lines.values():
            if line.batchref is None:
                pieces[line.orderid] += line.qty
        return pieces


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """The notification service's tables."""
    made = database.engine(f"sqlite:///{tmp_path}/notification.db")
    MIGRATIONS.upgrade(made)
    yield made
    made.dispose()


def known_as_waiting(engine: Engine, sku: str) -> Counter[str]:
    pieces: Counter[str] = Counter()
    columns = tables.moving.c
    with engine.connect() as connection:
        for row in connection.execute(
            select(columns.orderid, columns.qty).where(columns.sku == sku)
        ):
            pieces[row.orderid] += row.qty
    return pieces


def test_the_pieces_without_a_batch_are_those_that_wait(engine: Engine) -> None:
    inbox = Resequencer(engine, tables.metadata, mailing.apply, timedelta(seconds=60))
    for seed in range(20):
        shop = Shop(seed)
        for _ in range(40):
            if events := list(shop.play()):
                inbox.take(events)

            assert known_as_waiting(engine, shop.sku) == shop.waiting(), f"seed {seed}"
