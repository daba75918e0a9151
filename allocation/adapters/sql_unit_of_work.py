"""The unit of work on a SQL database: one session, one transaction, one commit."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import TracebackType
from typing import Self

from sqlalchemy import Engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from allocation.adapters import tables
from allocation.adapters.books import SqlBooks
from allocation.adapters.database import is_postgresql, translated
from allocation.adapters.inbox import SqlInbox, SqlOutbox
from allocation.domain.model import Product

NOTIFY_CHANNEL = "allocation_outbox"


class SqlProducts:
    """Products whose rows this transaction locked; all else is read under that lock."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self.seen: list[Product] = []

    def get(self, sku: str) -> Product | None:
        product = self._session.get(Product, sku, with_for_update=True)
        if product is not None and product not in self.seen:
            self._open(product)
        return product

    def get_by_batchref(self, batchref: str) -> Product | None:
        # A batch never changes its product, so this may be read before the lock.
        columns = tables.batches.c
        sku = self._session.scalar(select(columns.sku).where(columns.batchref == batchref))
        return None if sku is None else self.get(sku)

    def add(self, sku: str) -> Product:
        product = Product(sku)
        self._session.add(product)
        self._session.flush()
        self._open(product)
        return product

    def _open(self, product: Product) -> None:
        product.open(SqlBooks(self._session, product.sku))
        self.seen.append(product)


class SqlUnitOfWork:
    """A new transaction each time it is entered; one at a time, one thread."""

    products: SqlProducts
    inbox: SqlInbox
    outbox: SqlOutbox

    def __init__(
        self, engine: Engine, now: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        tables.map_domain()
        self._engine = engine.execution_options(sqlite_begin="IMMEDIATE")
        self._now = now

    def __enter__(self) -> Self:
        self._session = Session(self._engine)
        self.products = SqlProducts(self._session)
        self.outbox = SqlOutbox(self._session, self._now)
        self.inbox = SqlInbox(self._session, self.outbox, self._now)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._session.close()  # rolls back what was not committed
        if isinstance(error, SQLAlchemyError):
            known = translated(error)
            if known is not error:
                raise known from error

    def commit(self) -> None:
        if self.outbox.flush() and is_postgresql(self._engine):
            # Wakes the relay when the transaction commits, and only then.
            self._session.execute(select(func.pg_notify(NOTIFY_CHANNEL, "")))
        self._session.commit()
