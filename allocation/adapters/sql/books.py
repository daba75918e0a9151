"""The books of products in SQL: each question is one indexed query, however long the history."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import fields
from datetime import date
from functools import cache
from typing import Any

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Select,
    String,
    and_,
    bindparam,
    exists,
    func,
    literal,
    or_,
    select,
    tuple_,
)

from allocation.adapters.sql import tables
from allocation.domain.books import Batch, Line
from allocation.domain.strategies import earlier_batches, first_fit, service_order
from allocation.messaging.database import among, is_postgresql
from allocation.messaging.statements import Writes

CHUNK = 100
"""Lines fetched by one query while a pass goes through many."""

Skus = dict[str, str | None]
"""By batchref: the product that has it; None when no product has."""

_LINE = tables.allocations.c
_BATCH = tables.batches.c
_BATCH_FIELDS = tuple(field.name for field in fields(Batch))
_CHANGING = tuple(name for name in _BATCH_FIELDS if name not in ("batchref", "sku"))
_NO_LINE_WAITS = 2**31


class SqlBooks:
    """Valid while the product's row is locked.

    What is changed is written by `write`, at the commit or before a query that must see it.
    """

    def __init__(self, connection: Connection, sku: str, skus: Skus) -> None:
        self._connection = connection
        self._sku = sku
        self._skus = skus
        self.batches: dict[str, Batch] = {}
        self.lines: dict[str, dict[int, Line | None]] = {}
        """The parts of lines, by order, as far as they are known; None where one was removed."""
        self.complete: set[str] = set()
        """The orders whose parts are all known."""
        self.stored_batches: dict[str, tuple[Any, ...]] = {}
        self.stored_lines: dict[tuple[str, int], tuple[Any, ...]] = {}
        # No waiting line needs fewer pieces: with less free stock no query is needed.
        self.least_wanted = 0
        # Whether a line waits that not every good batch serves.
        self.particular_waits = False
        # No stored line that may improve holds fewer pieces; no line was promised a later day.
        self.least_held = 0
        self.latest_promise = date.min
        self._waiting: list[Line] = []

    def open_batches(self) -> Sequence[Batch]:
        return list(self.batches.values())

    def batch(self, batchref: str) -> Batch | None:
        if batchref not in self.batches:
            query = select(tables.batches).where(
                _BATCH.batchref == batchref, _BATCH.sku == self._sku
            )
            for row in self._connection.execute(query):
                self.know_batch(row)
        return self.batches.get(batchref)

    def parts(self, orderid: str) -> Sequence[Line]:
        if orderid not in self.complete:
            self.complete.add(orderid)
            self._fetch(select(tables.allocations).where(_LINE.orderid == orderid))
        known = self.lines.get(orderid, {})
        return [line for _, line in sorted(known.items()) if line is not None]

    def first_waiting(
        self, batches: Sequence[Batch], today: date, after: Line | None = None
    ) -> Line | None:
        good = [batch for batch in batches if batch.is_good(today)]
        at_most = max((batch.free for batch in good), default=0)
        if at_most < max(1, self.least_wanted):
            return None

        def fits(line: Line) -> bool:
            if not line.is_particular:
                return line.needs <= at_most
            return any(batch.free >= line.needs and batch.serves(line, today) for batch in good)

        if after is None:
            self._waiting = []
        fitting = [line for line in self._waiting if _is_behind(line, after) and fits(line)]
        if not fitting:
            conditions = [tables.waits, tables.needs <= at_most]
            if self.particular_waits:
                conditions.append(_is_served(good, today))
            if after is not None:
                conditions.append(_behind(after))
            query = select(tables.allocations).where(*conditions)
            fitting = self._fetch(query.order_by(*tables.in_service_order).limit(CHUNK))
        self._waiting = fitting
        if not fitting:
            if not self.particular_waits:
                # The lines before `after` did not fit either, when there was more.
                self.least_wanted = at_most + 1
            return None
        return fitting[0]

    def longest_waiting(self) -> Line | None:
        if self.least_wanted == _NO_LINE_WAITS:
            return None
        query = select(tables.allocations).where(tables.waits)
        return next(iter(self._fetch(query.order_by(*tables.in_service_order).limit(1))), None)

    def promised_later(self, batches: Sequence[Batch], today: date) -> Line | None:
        offers = self._offers(batches, today)
        if not offers:
            return None
        after: Line | None = None
        while True:
            query = select(tables.allocations).where(tables.improvable, _is_offered(offers, today))
            if after is not None:
                query = query.where(_behind(after))
            query = query.order_by(*tables.in_service_order, _LINE.part)
            lines = self._fetch(query.limit(CHUNK))
            for line in lines:
                if first_fit(earlier_batches(batches, line, today), line.held):
                    return line
            if len(lines) < CHUNK:
                return None
            after = lines[-1]

    def _offers(self, batches: Sequence[Batch], today: date) -> list[Batch]:
        """Batches that may serve a promised line earlier, and some line that no other one may."""
        self.latest_promise = max(
            [self.latest_promise, *(batch.arrival for batch in self.batches.values())]
        )
        earlier = [
            batch
            for batch in sorted(batches, key=lambda batch: batch.arrival)
            if batch.free and batch.arrival < self.latest_promise and batch.is_good(today)
        ]
        if not earlier:
            return []
        # Lines that this unit of work changed may hold less than the stored ones did.
        least = min([self.least_held, *self._known_to_be_held()])
        offers: list[Batch] = []
        for batch in earlier:
            if batch.free < least or batch.is_overdue(today):
                continue
            if not any(
                batch.free <= offer.free and _good_days(batch, today) <= _good_days(offer, today)
                for offer in offers
            ):
                offers.append(batch)
        return offers

    def _known_to_be_held(self) -> Iterator[int]:
        """The pieces of each known line that may improve."""
        for _, line in self.known_parts():
            if line is not None and line.held and line.eta is not None:
                yield line.held

    def waiting_unannounced(self, limit: int) -> Sequence[Line]:
        if self.least_wanted == _NO_LINE_WAITS:
            return []
        query = select(tables.allocations).where(tables.untold)
        return self._fetch(query.order_by(*tables.in_service_order).limit(limit))

    def lines_that_give_way(self, batchref: str) -> Iterator[Line]:
        # These lines may wait from now on.
        self.least_wanted, self.particular_waits = 0, True
        # Two queries, as each has an index: reservations, then allocations.
        for condition in (tables.held, tables.promised):
            query = (
                select(tables.allocations)
                .where(_LINE.batchref == batchref, condition)
                .order_by(*tables.in_shortage_order)
                .limit(CHUNK)
            )
            # Lines that gave way are promised no more: the same query brings the next ones.
            while chunk := self._fetch(query):
                yield from chunk

    def particular_lines(self, batchref: str) -> Sequence[Line]:
        self.least_wanted, self.particular_waits = 0, True
        query = select(tables.allocations).where(
            _LINE.batchref == batchref, tables.promised, tables.is_particular
        )
        return self._fetch(query.order_by(*tables.in_shortage_order))

    def promised_another_day(self, batch: Batch, limit: int) -> Sequence[Line]:
        query = (
            select(tables.allocations)
            .where(
                _LINE.batchref == batch.batchref,
                tables.promised,
                _LINE.eta.is_distinct_from(batch.eta),
            )
            .order_by(_LINE.promised_at)
            .limit(limit)
        )
        return self._fetch(query)

    def add_batch(self, batch: Batch) -> None:
        self.batches[batch.batchref] = batch
        self._skus[batch.batchref] = self._sku
        self.latest_promise = max(self.latest_promise, batch.arrival)

    def add_line(self, line: Line) -> None:
        self.lines.setdefault(line.orderid, {})[line.part] = line
        self.latest_promise = max(self.latest_promise, line.eta or date.min)
        if line.batchref is None:
            self.least_wanted = min(self.least_wanted, line.needs)
            self.particular_waits |= line.is_particular

    def remove_line(self, line: Line) -> None:
        self.lines[line.orderid][line.part] = None

    def know_batch(self, row: Any) -> None:
        """Take a batch as it is stored."""
        batch = Batch(**{name: getattr(row, name) for name in _BATCH_FIELDS})
        self.batches[row.batchref] = batch
        self.latest_promise = max(self.latest_promise, batch.arrival)
        self.stored_batches[row.batchref] = _numbers(batch)

    def know_line(self, row: Any) -> Line:
        """Take a line as it is stored; one that was taken before stays the same object."""
        parts = self.lines.setdefault(row.orderid, {})
        if known := parts.get(row.part):
            return known
        line = Line(**row._mapping)
        parts[row.part] = line
        self.stored_lines[row.orderid, row.part] = _state(line)
        return line

    def holds(self, orderid: str) -> bool:
        """Whether a part of the order's line is known to be there."""
        return any(self.lines.get(orderid, {}).values())

    def known_parts(self) -> Iterator[tuple[tuple[str, int], Line | None]]:
        """Every part of a line that is known, by order and part."""
        for orderid, parts in self.lines.items():
            for part, line in parts.items():
                yield (orderid, part), line

    def _fetch(self, query: Select[Any]) -> list[Line]:
        changes = Writes(self._connection)
        write([self], changes)
        changes.send()
        found = self._connection.execute(query.where(_LINE.sku == self._sku))
        return [self.know_line(row) for row in found]


def write(books: Collection[SqlBooks], changes: Writes) -> None:
    """Add to `changes` what was changed in these books since they were read or written."""
    new_batches, changed_batches = [], []
    new_lines, changed_lines, gone = [], [], []
    for each in books:
        for ref, batch in each.batches.items():
            state, stored = _numbers(batch), each.stored_batches.get(ref)
            if stored is None:
                new_batches.append(dict(vars(batch)))
            elif stored != state:
                changed_batches.append({"batchref": ref} | dict(zip(_CHANGING, state, strict=True)))
            each.stored_batches[ref] = state
        for key, line in each.known_parts():
            before = each.stored_lines.get(key)
            if line is None:
                if before is not None:
                    gone.append({"orderid": key[0], "sku": each._sku, "part": key[1]})
                    del each.stored_lines[key]
            elif before is None:
                new_lines.append(dict(vars(line)))
                each.stored_lines[key] = _state(line)
            elif before != (state := _state(line)):
                changed_lines.append(dict(vars(line)))
                each.stored_lines[key] = state
    changes.add(tables.batches, new_batches)
    changes.add(tables.allocations, new_lines)
    changes.change(tables.allocations, changed_lines)
    changes.remove(tables.allocations, gone)
    changes.change(tables.batches, changed_batches)


def load(
    connection: Connection, skus: Skus, asked: Collection[str], lines: Collection[tuple[str, str]]
) -> dict[str, SqlBooks]:
    """The books of the `asked` skus, whose products are locked, by three queries at most.

    Open batches come with them, those that `skus` names, and the `lines` (orderid, sku).
    """
    dialect = connection.dialect.name
    made = {sku: SqlBooks(connection, sku, skus) for sku in asked}
    for row in connection.execute(_stock(dialect), {"skus": list(asked)}):
        books = made[row.product]
        books.least_wanted = row.least or _NO_LINE_WAITS
        books.particular_waits = row.particular_waits
        books.least_held = row.least_held or _NO_LINE_WAITS
        books.latest_promise = row.latest_promise or date.min
        if row.batchref is not None:
            books.know_batch(row)
    if named := [batchref for batchref, sku in skus.items() if sku in made]:
        for row in connection.execute(_named_batches(dialect), {"refs": named}):
            made[row.sku].know_batch(row)

    for orderid, sku in lines:
        made[sku].complete.add(orderid)
    for row in _stored_lines(connection, lines):
        made[row.sku].know_line(row)
    return made


# Statements are built once: that takes longer than to send one.


@cache
def _stock(dialect: str) -> Select[Any]:
    """The open batches of the `skus`, and what says that no line waits, or improves, for them.

    A product without an open batch is one row without a batch.
    """
    products = tables.products.c

    def of_lines(value: Any, condition: ColumnElement[bool]) -> Any:
        return select(value).where(_LINE.sku == products.sku, condition).scalar_subquery()

    particular = exists().where(_LINE.sku == products.sku, tables.waits, tables.is_particular)
    asked = (
        select(
            products.sku.label("product"),
            of_lines(func.min(tables.needs), tables.waits).label("least"),
            particular.label("particular_waits"),
            of_lines(func.min(tables.holds), tables.improvable).label("least_held"),
            of_lines(func.max(_LINE.eta), tables.improvable).label("latest_promise"),
        )
        .where(among(products.sku, "skus", dialect))
        .subquery("asked")
    )
    its_open_ones = and_(_BATCH.sku == asked.c.product, tables.is_open)
    return select(asked, tables.batches).outerjoin_from(asked, tables.batches, its_open_ones)


@cache
def _named_batches(dialect: str) -> Select[Any]:
    return select(tables.batches).where(among(_BATCH.batchref, "refs", dialect))


@cache
def _asked_lines() -> Select[Any]:
    # A join with arrays: PostgreSQL plans a long list of pairs slowly.
    orderids, skus = (bindparam(name, type_=ARRAY(String)) for name in ("orderids", "skus"))
    pairs = func.unnest(orderids, skus).table_valued("orderid", "sku").render_derived()
    is_asked = and_(_LINE.orderid == pairs.c.orderid, _LINE.sku == pairs.c.sku)
    return select(tables.allocations).join(pairs, is_asked)


def _stored_lines(connection: Connection, keys: Collection[tuple[str, str]]) -> Sequence[Any]:
    if not keys:
        return []
    if is_postgresql(connection):
        orderids, skus = zip(*keys, strict=True)
        given = {"orderids": list(orderids), "skus": list(skus)}
        return connection.execute(_asked_lines(), given).all()
    is_asked = tuple_(_LINE.orderid, _LINE.sku).in_(list(keys))
    return connection.execute(select(tables.allocations).where(is_asked)).all()


def _is_behind(line: Line, after: Line | None) -> bool:
    return after is None or service_order(line) > service_order(after)


def _behind(after: Line) -> ColumnElement[bool]:
    """Lines that are behind this one by `service_order`."""
    return or_(
        _LINE.priority < after.priority,
        and_(_LINE.priority == after.priority, _LINE.age > after.age),
        and_(_LINE.priority == after.priority, _LINE.age == after.age, _LINE.part > after.part),
    )


def _is_offered(offers: Sequence[Batch], today: date) -> ColumnElement[bool]:
    """Lines that one of the batches has enough for, comes early enough for, and is good for."""
    return or_(
        *(
            and_(
                tables.holds <= batch.free,
                _LINE.eta > batch.arrival,
                _LINE.fresh_days <= _good_days(batch, today),
            )
            for batch in offers
        )
    )


def _good_days(batch: Batch, today: date) -> int:
    """For how many days it stays good once it is there."""
    return (batch.expiry - max(today, batch.arrival)).days


def _is_served(batches: Sequence[Batch], today: date) -> ColumnElement[bool]:
    """Lines that one of the batches has enough for, and is good for, as `Batch.serves` says."""

    best: list[Batch] = []
    for batch in sorted(batches, key=lambda batch: (batch.expiry, batch.free), reverse=True):
        if not any(
            other.free >= batch.free
            and other.expiry >= batch.expiry
            and _good_days(other, today) >= _good_days(batch, today)
            for other in best
        ):
            best.append(batch)
    return or_(*(_has_enough(batch, today) for batch in best))


def _has_enough(batch: Batch, today: date) -> ColumnElement[bool]:
    enough = tables.needs <= batch.free
    if batch.best_before is None:
        return enough
    last_day = tables.DaysBefore(literal(batch.best_before), _LINE.fresh_days)
    return and_(
        enough,
        _LINE.fresh_days <= _good_days(batch, today),
        or_(_LINE.not_before.is_(None), last_day >= _LINE.not_before),
    )


def _state(line: Line) -> tuple[Any, ...]:
    return tuple(vars(line).values())


def _numbers(batch: Batch) -> tuple[Any, ...]:
    return tuple(getattr(batch, name) for name in _CHANGING)
