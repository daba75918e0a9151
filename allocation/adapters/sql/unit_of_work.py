"""The unit of work on a SQL database: one session, one transaction, one commit."""

from collections.abc import Callable, Collection, Sequence
from datetime import UTC, date, datetime, tzinfo
from functools import cache
from time import perf_counter
from types import TracebackType
from typing import Any, Self

from sqlalchemy import Connection, Engine, Select, select
from sqlalchemy.exc import SQLAlchemyError

from allocation.adapters.sql import books, tables
from allocation.adapters.sql.books import Skus, SqlBooks
from allocation.adapters.sql.database import clock, translated
from allocation.adapters.sql.inbox import SqlInbox
from allocation.adapters.sql.notifications import DECIDED_CHANNEL
from allocation.adapters.sql.outbox import NOTIFY_CHANNEL, SqlOutbox
from allocation.domain.commands import Command
from allocation.domain.product import Product
from allocation.messaging.database import among, is_postgresql
from allocation.messaging.statements import Writes


class SqlProducts:
    """Products whose rows this transaction locked; all else is read under that lock."""

    def __init__(
        self,
        connection: Connection,
        locked: Callable[[float], None],
        today: Callable[[], date],
    ) -> None:
        self._connection = connection
        self._locked = locked
        self._today = today
        self._products: dict[str, Product] = {}
        self._stored: dict[str, dict[str, object]] = {}
        self._books: dict[str, SqlBooks] = {}
        self._skus: Skus = {}
        # The skus of the lines of each order that was loaded as a whole.
        self._orders: dict[str, set[str]] = {}
        self._seen: dict[str, Product] = {}

    def load(self, commands: Sequence[Command]) -> None:
        self._find({command.batch for command in commands if command.batch})
        self._find_orders({each.order for each in commands if each.order and not each.skus})
        lines = {(each.order, sku) for each in commands if each.order for sku in each.skus}
        lines |= {(orderid, sku) for orderid, skus in self._orders.items() for sku in skus}
        named = {sku for command in commands for sku in command.skus}
        of_batches = {sku for sku in self._skus.values() if sku}
        self._lock(named | of_batches | {sku for _, sku in lines}, lines)

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
            self._lock(skus - self._books.keys(), {(orderid, sku) for sku in skus})
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
            product for sku, product in self._products.items() if self._stored[sku] != _row(product)
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

    def _lock(self, skus: Collection[str], lines: Collection[tuple[str, str]] = ()) -> None:
        if not skus:
            return
        # Every transaction locks in the order of the skus: no deadlock.
        asked = {"skus": list(skus)}
        began = perf_counter()
        locked = self._connection.execute(_locked(self._connection.dialect.name), asked).all()
        self._locked(perf_counter() - began)
        self._books.update(books.load(self._connection, self._skus, skus, lines))
        for row in locked:
            books_of = self._books[row.sku]
            self._know(
                Product(
                    row.sku,
                    books_of,
                    row.version,
                    row.sequence,
                    row.strategy,
                    row.waiting,
                    row.improve,
                    self._today(),
                )
            )

    def _know(self, product: Product) -> None:
        self._products[product.sku] = product
        self._stored[product.sku] = _row(product)

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


@cache
def _locked(dialect: str) -> Select[Any]:
    sku = tables.products.c.sku
    is_asked = among(sku, "skus", dialect)
    return select(tables.products).where(is_asked).order_by(sku).with_for_update()


def _row(product: Product) -> dict[str, object]:
    return {
        "sku": product.sku,
        "version": product.version,
        "sequence": product.sequence,
        "strategy": product.strategy,
        "waiting": product.waiting,
        "improve": product.improve,
    }


class SqlUnitOfWork:
    """A new transaction each time it is entered; one at a time, one thread."""

    products: SqlProducts
    inbox: SqlInbox
    outbox: SqlOutbox

    def __init__(
        self,
        engine: Engine,
        locked: Callable[[float], None] = lambda seconds: None,
        clock: Callable[[Connection], datetime] = clock,
        calendar: tzinfo = UTC,
    ) -> None:
        """`locked` is called with the seconds that it took to lock rows of products.

        `calendar` is the time zone in which the shop's days begin.
        """
        self._engine = (
            engine if is_postgresql(engine) else engine.execution_options(sqlite_begin="IMMEDIATE")
        )
        self._locked = locked
        self._clock = clock
        self.calendar = calendar

    def __enter__(self) -> Self:
        try:
            self._connection = self._engine.connect()
        except SQLAlchemyError as error:
            raise translated(error) from error
        self._began: datetime | None = None
        self.products = SqlProducts(self._connection, self._locked, self.today)
        self.outbox = SqlOutbox(self.now)
        self.inbox = SqlInbox(self._connection, self.outbox, self.now)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()  # rolls back what was not committed
        if isinstance(error, SQLAlchemyError):
            known = translated(error)
            if known is not error:
                raise known from error

    def now(self) -> datetime:
        # Read once, on first use: the products are locked by then, so the times of a product's
        # events never go backwards.
        if self._began is None:
            self._began = self._clock(self._connection)
        return self._began

    def today(self) -> date:
        return self.now().astimezone(self.calendar).date()

    def commit(self) -> None:
        changes = Writes(self._connection)
        self.products.write(changes)
        if self.inbox.write(changes):
            changes.notify(DECIDED_CHANNEL)  # requests that wait for an outcome
        if self.outbox.write(changes):
            changes.notify(NOTIFY_CHANNEL)  # the relay
        changes.send()
        self._connection.commit()
