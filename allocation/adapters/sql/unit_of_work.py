"""The unit of work on a SQL database: one session, one transaction, one commit."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime, timedelta, tzinfo
from functools import cache
from operator import attrgetter
from time import monotonic
from types import TracebackType
from typing import Any, Self
from uuid import UUID

from sqlalchemy import Connection, Engine, Select, select
from sqlalchemy.exc import SQLAlchemyError

from allocation.adapters.sql import books, database, tables
from allocation.adapters.sql.books import Skus, SqlBooks
from allocation.adapters.sql.database import translated
from allocation.adapters.sql.inbox import SqlInbox
from allocation.adapters.sql.locking import Read, Row, lock
from allocation.adapters.sql.notifications import DECIDED_CHANNEL
from allocation.adapters.sql.outbox import (
    NOT_FOR_RELAY,
    NOTIFY_CHANNEL,
    EventPublisher,
    EventRow,
    SqlOutbox,
)
from allocation.domain.commands import Command
from allocation.domain.outcomes import Outcome
from allocation.domain.product import Product
from allocation.messaging.database import JOINED, among, is_postgresql
from allocation.messaging.statements import Writes
from allocation.service_layer.unit_of_work import Message


class SqlProducts:
    """Products whose rows this transaction locked; all else is read under that lock."""

    def __init__(
        self,
        connection: Connection,
        locked: Callable[[Read], None],
        today: Callable[[], date],
    ) -> None:
        """`locked` is called with what was read once products were locked."""
        self._connection = connection
        self._locked = locked
        self._today = today
        self._products: dict[str, Product] = {}
        self._stored: dict[str, tuple[object, ...]] = {}
        self._books: dict[str, SqlBooks] = {}
        self._skus: Skus = {}
        # The skus of the lines of each order that was loaded as a whole.
        self._orders: dict[str, set[str]] = {}
        self._seen: dict[str, Product] = {}

    def load(self, commands: Sequence[Command]) -> None:
        self.load_and_lock(commands, ())

    def load_and_lock(self, commands: Sequence[Command], ids: Collection[UUID]) -> Sequence[Row]:
        """Load what the commands need; lock and return the rows of the commands of these ids."""
        self._find({command.batch for command in commands if command.batch})
        self._find_orders({each.order for each in commands if each.order and not each.skus})
        lines = {(each.order, sku) for each in commands if each.order for sku in each.skus}
        lines |= {(orderid, sku) for orderid, skus in self._orders.items() for sku in skus}
        named = {sku for command in commands for sku in command.skus}
        of_batches = {sku for sku in self._skus.values() if sku}
        return self._lock(named | of_batches | {sku for _, sku in lines}, lines, ids)

    def has_unsent_events(self, sku: str) -> bool:
        """Whether another transaction left events of this product that are not marked as sent."""
        return self._books[sku].has_unsent_events

    def pull_seen(self) -> list[Product]:
        seen, self._seen = self._seen, {}
        return list(seen.values())

    def get(self, sku: str) -> Product | None:
        if sku not in self._books:
            self._lock({sku})
        product = self._products.get(sku)
        return None if product is None else self._see(product)

    def get_by_batchref(self, batchref: str) -> Product | None:
        if batchref not in self._skus:
            self._find({batchref})
        sku = self._skus[batchref]
        return None if sku is None else self.get(sku)

    def of_order(self, orderid: str) -> list[Product]:
        if orderid not in self._orders:
            self._find_orders({orderid})
            skus = self._orders[orderid]
            new = skus - self._books.keys()
            self._lock(new, {(orderid, sku) for sku in new})
        # This unit of work may have added a line.
        brought = {sku for sku, its in self._books.items() if its.holds(orderid)}
        products = [self.get(sku) for sku in sorted(self._orders[orderid] | brought)]
        return [product for product in products if product is not None]

    def add(self, sku: str) -> Product:
        books_of = self._books.setdefault(sku, SqlBooks(self._connection, sku, self._skus))
        product = Product(sku, books_of, today=self._today())
        new = Writes(self._connection)
        new.add(tables.products, [_row(product)])
        new.send()
        self._know(product)
        return self._see(product)

    def write(self, changes: Writes) -> None:
        """Add the changes of the products and their books to `changes`."""
        books.write(self._books.values(), changes)
        changed = [
            product
            for sku, product in self._products.items()
            if self._stored[sku] != _state(product)
        ]
        changes.change(tables.products, [_row(each) for each in changed])
        for product in changed:
            self._know(product)

    def _find(self, batchrefs: Collection[str]) -> None:
        # A batch never changes its product, so this may be read before the lock.
        if not batchrefs:
            return
        asked = {"refs": list(batchrefs)}
        found = self._connection.execute(_skus_of(self._connection.dialect.name), asked)
        self._skus.update(dict.fromkeys(batchrefs))
        self._skus.update((row.batchref, row.sku) for row in found)

    def _find_orders(self, orderids: Collection[str]) -> None:
        # Before the lock, too: a line that is added meanwhile came after this command.
        if not orderids:
            return
        self._orders.update((orderid, set()) for orderid in orderids)
        asked = {"orderids": list(orderids)}
        for row in self._connection.execute(_lines_of(self._connection.dialect.name), asked):
            self._orders[row.orderid].add(row.sku)

    def _lock(
        self,
        skus: Collection[str],
        lines: Collection[tuple[str, str]] = (),
        ids: Collection[UUID] = (),
    ) -> Sequence[Row]:
        if not (skus or ids):
            return []
        named = [batchref for batchref, sku in self._skus.items() if sku in skus]
        read = lock(self._connection, skus, named, lines, ids)
        self._locked(read)
        self._books |= books.make(self._connection, self._skus, skus, lines, read)
        for sku, row in {row["product"]: row for row in read.stock}.items():
            stored = {name: row[name] for name in _STORED}
            self._know(Product(sku, self._books[sku], **stored, today=self._today()))
        return read.commands

    def _know(self, product: Product) -> None:
        self._products[product.sku] = product
        self._stored[product.sku] = _state(product)

    def _see(self, product: Product) -> Product:
        return self._seen.setdefault(product.sku, product)


@cache
def _skus_of(dialect: str) -> Select[Any]:
    columns = tables.batches.c
    is_asked = among(columns.batchref, "refs", dialect)
    return select(columns.batchref, columns.sku).where(is_asked)


@cache
def _lines_of(dialect: str) -> Select[Any]:
    columns = tables.allocations.c
    is_asked = among(columns.orderid, "orderids", dialect)
    return select(columns.orderid, columns.sku).where(is_asked)


_STORED = ("version", "sequence", "strategy", "waiting", "improve")
_state: Callable[[Product], tuple[object, ...]] = attrgetter(*_STORED)


def _row(product: Product) -> dict[str, object]:
    return {"sku": product.sku, **dict(zip(_STORED, _state(product), strict=True))}


class SqlUnitOfWork:
    """A new transaction each time it is entered; one at a time, one thread."""

    products: SqlProducts
    inbox: SqlInbox
    outbox: SqlOutbox

    def __init__(
        self,
        engine: Engine,
        locked: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[Connection], datetime] = database.clock,
        calendar: tzinfo = UTC,
        publisher: EventPublisher | None = None,
    ) -> None:
        """`locked` is called with the seconds that it took to lock rows of products.

        `calendar` is the time zone in which the shop's days begin. `publisher` gets the events
        after their commit, as this is left, but for those of products with earlier events that are
        not sent yet: these keep their order by the relay. Without it the relay publishes all.
        """
        options = JOINED if is_postgresql(engine) else {"sqlite_begin": "IMMEDIATE"}
        self._engine = engine.execution_options(**options)
        self._locked = locked
        self._clock = clock
        self.calendar = calendar
        self._publisher = publisher
        self._committed: list[EventRow] = []

    def __enter__(self) -> Self:
        try:
            self._connection = self._engine.connect()
        except SQLAlchemyError as error:
            raise translated(error) from error
        self._began: datetime | None = None
        self._began_at = monotonic()
        self.products = SqlProducts(self._connection, self._have_locked, self.today)
        is_direct = self._publisher is not None and self._publisher.is_ready
        self.outbox = SqlOutbox(
            self.now,
            lambda sku: is_direct and not self.products.has_unsent_events(sku),
            lambda: timedelta(seconds=monotonic() - self._began_at),
        )
        self.inbox = SqlInbox(self._connection, self.outbox, self.now)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()  # rolls back what was not committed
        committed, self._committed = self._committed, []
        if committed and self._publisher is not None:
            self._publisher.publish(committed)
        if isinstance(error, SQLAlchemyError):
            known = translated(error)
            if known is not error:
                raise known from error

    def claim(self, messages: Sequence[Message]) -> dict[UUID, Outcome | None]:
        commands, ids = zip(*((each.command.meant, each.id) for each in messages), strict=True)
        return self.inbox.claim(messages, self.products.load_and_lock(commands, ids))

    def _have_locked(self, read: Read) -> None:
        self._locked(read.seconds)
        if self._clock is database.clock and self._began is None:
            self._began, self._began_at = read.now, monotonic()  # no round trip of its own

    def now(self) -> datetime:
        # Read once, on first use: the products are locked by then, so the times of a product's
        # events never go backwards.
        if self._began is None:
            self._began, self._began_at = self._clock(self._connection), monotonic()
        return self._began

    def today(self) -> date:
        return self.now().astimezone(self.calendar).date()

    def commit(self) -> None:
        changes = Writes(self._connection)
        self.products.write(changes)
        if self.inbox.write(changes):
            changes.notify(DECIDED_CHANNEL)  # requests that wait for an outcome
        if self.outbox.write(changes):
            changes.notify(NOTIFY_CHANNEL, "" if self.outbox.has_row_for_relay else NOT_FOR_RELAY)
        changes.commit()
        self._committed, self.outbox.direct_rows = self.outbox.direct_rows, []
