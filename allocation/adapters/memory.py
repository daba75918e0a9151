"""The unit of work in memory: the twin of the SQL one, for tests and for trying rules out."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from types import TracebackType
from typing import Self
from uuid import UUID

from allocation.contract import codec
from allocation.domain.books import Allocation, Batch, MemoryBooks
from allocation.domain.commands import Command, Malformed, meant
from allocation.domain.events import Event
from allocation.domain.outcomes import Outcome, Refused
from allocation.domain.product import Product
from allocation.service_layer.unit_of_work import CommandConflict, Message


@dataclass
class _Row:
    message: Message
    status: str = "pending"
    outcome: Outcome | None = None
    error: str | None = None


@dataclass
class MemoryStore:
    """What is committed: products with their books, commands, and the outbox in order."""

    products: dict[str, tuple[int, int, str]] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    lines: dict[tuple[str, str, int], Allocation] = field(default_factory=dict)
    commands: dict[UUID, _Row] = field(default_factory=dict)
    outbox: list[Message | codec.Json] = field(default_factory=list)
    scheduled: dict[Message, datetime] = field(default_factory=dict)


class MemoryProducts:
    """Products of a store, given out as they would be loaded."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store
        self._open: dict[str, tuple[Product, MemoryBooks]] = {}
        self._seen: list[Product] = []

    def load(self, commands: Sequence[Command]) -> None:
        """Nothing to do: memory is as near as it can be."""

    def pull_seen(self) -> list[Product]:
        seen, self._seen = self._seen, []
        return seen

    def get(self, sku: str) -> Product | None:
        if sku in self._open:
            return self._see(self._open[sku][0])
        if sku not in self._store.products:
            return None
        product = Product(sku)
        product.version, product.sequence, product.strategy = self._store.products[sku]
        batches = (batch for batch in self._store.batches.values() if batch.sku == sku)
        lines = (line for line in self._store.lines.values() if line.sku == sku)
        return self._with_books(product, MemoryBooks(batches, lines))

    def get_by_batchref(self, batchref: str) -> Product | None:
        for product, books in self._open.values():
            if batchref in books.batches:
                return self._see(product)
        batch = self._store.batches.get(batchref)
        return None if batch is None else self.get(batch.sku)

    def of_order(self, orderid: str) -> list[Product]:
        stored = {sku for known, sku, _ in self._store.lines if known == orderid}
        brought = {sku for sku, (_, its) in self._open.items() if its.parts(orderid)}
        products = [self.get(sku) for sku in sorted(stored | brought)]
        return [product for product in products if product is not None]

    def add(self, sku: str) -> Product:
        return self._with_books(Product(sku), MemoryBooks())

    def save(self) -> None:
        """Write what became of the products into the store."""
        for product, books in self._open.values():
            state = (product.version, product.sequence, product.strategy)
            self._store.products[product.sku] = state
            kept = {key: line for key, line in self._store.lines.items() if key[1] != product.sku}
            self._store.lines = kept | {
                (line.orderid, line.sku, line.part): line for line in books.lines.values()
            }
            self._store.batches |= books.batches

    def _with_books(self, product: Product, books: MemoryBooks) -> Product:
        product.open(books)
        self._open[product.sku] = product, books
        return self._see(product)

    def _see(self, product: Product) -> Product:
        if product not in self._seen:
            self._seen.append(product)
        return product


class MemoryOutbox:
    """Messages and CloudEvents in the order in which they were committed."""

    def __init__(self, store: MemoryStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    def add(self, event: Event, cause: Message) -> None:
        self._store.outbox.append(
            codec.cloud_event(
                event,
                time=self._now(),
                causation_id=cause.id,
                causation_type=codec.command_name(cause.command),
                correlation_id=cause.correlation_id,
            )
        )

    def schedule(self, message: Message, due_at: datetime) -> None:
        if message not in self._store.scheduled:
            self._store.scheduled[message] = due_at
            self._store.outbox.append(message)


class MemoryInbox:
    """Commands by id."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def accept(self, messages: Sequence[Message]) -> None:
        for message in messages:
            if message.id in self._store.commands:
                if self._known(message).message.correlation_id != message.correlation_id:
                    raise CommandConflict(f"command {message.id} is known as part of another")
                continue
            self._store.commands[message.id] = _Row(message)
            self._store.outbox.append(message)

    def claim(self, messages: Sequence[Message]) -> dict[UUID, Outcome]:
        for message in messages:
            self._store.commands.setdefault(message.id, _Row(message))
        rows = {message.id: self._known(message) for message in messages}
        return {known: row.outcome for known, row in rows.items() if row.outcome is not None}

    def was_accepted(self, message: Message) -> bool:
        # A malformed command is never accepted, only claimed.
        return not isinstance(self._store.commands[message.id].message.command, Malformed)

    def record(self, message: Message, outcome: Outcome) -> None:
        row = self._store.commands[message.id]
        row.status, row.outcome, row.error = "decided", outcome, None

    def record_failure(self, message: Message, error: str) -> None:
        if message.id not in self._store.commands and isinstance(message.command, Malformed):
            return
        row = self._store.commands.setdefault(message.id, _Row(message))
        if row.outcome is None:
            row.status, row.error = "failed", error

    def give_up(self, command_id: UUID, refusal: Refused) -> bool:
        row = self._store.commands.get(command_id)
        if row is None or row.outcome is not None:
            return False
        row.status, row.outcome, row.error = "decided", refusal, None
        return True

    def _known(self, message: Message) -> _Row:
        row = self._store.commands[message.id]
        if meant(row.message.command) != meant(message.command):
            raise CommandConflict(f"command {message.id} is known with another body")
        return row


class MemoryUnitOfWork:
    """Works on a copy of the store; `commit` puts the copy in its place."""

    products: MemoryProducts
    inbox: MemoryInbox
    outbox: MemoryOutbox

    def __init__(
        self,
        store: MemoryStore | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self.store = store or MemoryStore()
        self._now = now

    def __enter__(self) -> Self:
        self._copy = copy.deepcopy(self.store)
        self.products = MemoryProducts(self._copy)
        self.inbox = MemoryInbox(self._copy)
        self.outbox = MemoryOutbox(self._copy, self.now)
        self._began: datetime | None = None
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        del self._copy

    def now(self) -> datetime:
        if self._began is None:
            self._began = self._now()
        return self._began

    def commit(self) -> None:
        self.products.save()
        self.store.__dict__.update(copy.deepcopy(self._copy).__dict__)
