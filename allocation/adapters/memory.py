"""The ports in memory: one fake of each, for tests and for trying rules out."""

import copy
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, tzinfo
from types import TracebackType
from typing import Self
from uuid import UUID

from allocation.contract import codec
from allocation.domain.books import Batch, Line
from allocation.domain.commands import Command, Malformed
from allocation.domain.events import Event
from allocation.domain.outcomes import Outcome, Refused
from allocation.domain.product import Product
from allocation.domain.strategies import (
    candidates,
    earlier_batches,
    first_fit,
    service_order,
    shortage_order,
)
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

    products: dict[str, tuple[int, int, str, str, bool]] = field(default_factory=dict)
    batches: dict[str, Batch] = field(default_factory=dict)
    lines: dict[tuple[str, str, int], Line] = field(default_factory=dict)
    commands: dict[UUID, _Row] = field(default_factory=dict)
    outbox: list[Message | codec.Json] = field(default_factory=list)
    scheduled: dict[Message, datetime] = field(default_factory=dict)


class MemoryBooks:
    """Books kept in two dictionaries: batches by reference, lines by order and part."""

    def __init__(self, batches: Iterable[Batch] = (), lines: Iterable[Line] = ()) -> None:
        self.batches = {batch.batchref: batch for batch in batches}
        self.lines = {(line.orderid, line.part): line for line in lines}

    def open_batches(self) -> Sequence[Batch]:
        return [batch for batch in self.batches.values() if batch.free > 0]

    def batch(self, batchref: str) -> Batch | None:
        return self.batches.get(batchref)

    def parts(self, orderid: str) -> Sequence[Line]:
        parts = [line for (known, _), line in self.lines.items() if known == orderid]
        return sorted(parts, key=lambda line: line.part)

    def first_waiting(
        self, batches: Sequence[Batch], today: date, after: Line | None = None
    ) -> Line | None:
        for line in self._waiting():
            if after is not None and service_order(line) <= service_order(after):
                continue
            if any(batch.free >= line.needs for batch in candidates(batches, line, today)):
                return line
        return None

    def longest_waiting(self) -> Line | None:
        return next(iter(self._waiting()), None)

    def promised_later(self, batches: Sequence[Batch], today: date) -> Line | None:
        promised = (line for line in self.lines.values() if line.held)
        for line in sorted(promised, key=service_order):
            if first_fit(earlier_batches(batches, line, today), line.held):
                return line
        return None

    def waiting_unannounced(self, limit: int) -> Sequence[Line]:
        return [line for line in self._waiting() if not line.told][:limit]

    def lines_that_give_way(self, batchref: str) -> Iterator[Line]:
        return iter(sorted(self._promised(batchref), key=shortage_order))

    def particular_lines(self, batchref: str) -> Sequence[Line]:
        return [line for line in self._promised(batchref) if line.is_particular]

    def promised_another_day(self, batch: Batch, limit: int) -> Sequence[Line]:
        lines = (line for line in self._promised(batch.batchref) if line.eta != batch.eta)
        return sorted(lines, key=lambda line: line.promised_at or 0)[:limit]

    def add_batch(self, batch: Batch) -> None:
        self.batches[batch.batchref] = batch

    def add_line(self, line: Line) -> None:
        self.lines[line.orderid, line.part] = line

    def remove_line(self, line: Line) -> None:
        del self.lines[line.orderid, line.part]

    def _promised(self, batchref: str) -> Iterable[Line]:
        lines = self.lines.values()
        return (line for line in lines if line.batchref == batchref and not line.dispatched)

    def _waiting(self) -> list[Line]:
        waiting = (line for line in self.lines.values() if line.batchref is None)
        return sorted(waiting, key=service_order)


class MemoryProducts:
    """Products of a store, given out as they would be loaded."""

    def __init__(self, store: MemoryStore, today: Callable[[], date]) -> None:
        self._store = store
        self._today = today
        self._open: dict[str, tuple[Product, MemoryBooks]] = {}
        self._seen: dict[str, Product] = {}

    def load(self, commands: Sequence[Command]) -> None:
        """Nothing to do: all of it is in memory."""

    def pull_seen(self) -> list[Product]:
        seen, self._seen = self._seen, {}
        return list(seen.values())

    def get(self, sku: str) -> Product | None:
        if sku not in self._open:
            if sku not in self._store.products:
                return None
            batches = (batch for batch in self._store.batches.values() if batch.sku == sku)
            lines = (line for line in self._store.lines.values() if line.sku == sku)
            books = MemoryBooks(batches, lines)
            state = self._store.products[sku]
            self._open[sku] = Product(sku, books, *state, today=self._today()), books
        return self._seen.setdefault(sku, self._open[sku][0])

    def get_by_batchref(self, batchref: str) -> Product | None:
        for sku, (_, books) in self._open.items():
            if batchref in books.batches:
                return self.get(sku)
        batch = self._store.batches.get(batchref)
        return None if batch is None else self.get(batch.sku)

    def of_order(self, orderid: str) -> list[Product]:
        stored = {sku for known, sku, _ in self._store.lines if known == orderid}
        brought = {sku for sku, (_, its) in self._open.items() if its.parts(orderid)}
        products = [self.get(sku) for sku in sorted(stored | brought)]
        return [product for product in products if product is not None]

    def add(self, sku: str) -> Product:
        books = MemoryBooks()
        self._open[sku] = Product(sku, books, today=self._today()), books
        return self._seen.setdefault(sku, self._open[sku][0])

    def save(self) -> None:
        """Write the products and their books into the store."""
        for product, books in self._open.values():
            self._store.products[product.sku] = (
                *(product.version, product.sequence),
                *(product.strategy, product.waiting, product.improve),
            )
            kept = {key: line for key, line in self._store.lines.items() if key[1] != product.sku}
            self._store.lines = kept | {
                (line.orderid, line.sku, line.part): line for line in books.lines.values()
            }
            self._store.batches |= books.batches


class MemoryOutbox:
    """Messages and CloudEvents in the order in which they were committed."""

    def __init__(self, store: MemoryStore, now: Callable[[], datetime]) -> None:
        self._store = store
        self._now = now

    def add(self, event: Event, cause: Message) -> None:
        self._store.outbox.append(codec.cloud_event(event, cause, self._now()))

    def schedule(self, message: Message, due_at: datetime) -> None:
        if message not in self._store.scheduled:
            self._store.scheduled[message] = due_at
            self._store.outbox.append(message)


class MemoryInbox:
    """Commands by id."""

    def __init__(self, store: MemoryStore) -> None:
        self._store = store

    def accept(self, messages: Sequence[Message]) -> set[UUID]:
        new = set()
        for message in messages:
            if message.id in self._store.commands:
                if self._known(message).message.correlation_id != message.correlation_id:
                    raise CommandConflict(
                        f"command {message.id} was accepted before as part of another request"
                    )
                continue
            self._store.commands[message.id] = _Row(message)
            self._store.outbox.append(message)
            new.add(message.id)
        return new

    def claim(self, messages: Sequence[Message]) -> dict[UUID, Outcome | None]:
        known = self._store.commands.keys() & {message.id for message in messages}
        for message in messages:
            self._store.commands.setdefault(message.id, _Row(message))
        rows = {message.id: self._known(message) for message in messages}
        return {command_id: rows[command_id].outcome for command_id in known}

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
        if row.message.command.meant != message.command.meant:
            raise CommandConflict(f"command {message.id} was accepted before with another body")
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
        calendar: tzinfo = UTC,
    ) -> None:
        self.store = store or MemoryStore()
        self._now = now
        self.calendar = calendar

    def __enter__(self) -> Self:
        self._copy = copy.deepcopy(self.store)
        self.products = MemoryProducts(self._copy, self.today)
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

    def today(self) -> date:
        return self.now().astimezone(self.calendar).date()

    def claim(self, messages: Sequence[Message]) -> dict[UUID, Outcome | None]:
        self.products.load([message.command.meant for message in messages])
        return self.inbox.claim(messages)

    def commit(self) -> None:
        self.products.save()
        self.store.__dict__.update(copy.deepcopy(self._copy).__dict__)
