"""The books of products in SQL: each question is one indexed query, however long the history."""

from collections.abc import Collection, Iterable, Iterator, Sequence
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
    func,
    literal,
    or_,
    select,
    tuple_,
)

from allocation.adapters.sql import tables
from allocation.adapters.sql.line_queue import LineQueue, Order, Stock, best
from allocation.domain.books import Batch, Line
from allocation.domain.strategies import service_order
from allocation.messaging.database import among, is_postgresql
from allocation.messaging.statements import Writes

CHUNK = 100
"""Lines fetched by one query while a pass goes through many."""

Fetched = tuple[list[Line], Order | None]

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
        # What says that no stored line waits, or improves: none needs or holds fewer pieces, none
        # was promised a later day.
        self.least_wanted = 0
        self.least_held = 0
        self.latest_promise = date.max
        self._waiting = LineQueue()
        self._improvable = LineQueue()

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
            its_parts = select(tables.allocations).where(_LINE.orderid == orderid)
            self._still_there(self._rows(its_parts))
        known = sorted(self.lines.get(orderid, {}).items())
        return [self._handed(line) for _, line in known if line is not None]

    def first_waiting(
        self, batches: Sequence[Batch], today: date, after: Line | None = None
    ) -> Line | None:
        good = [batch for batch in batches if batch.free and batch.is_good(today)]
        at_most = max((batch.free for batch in good), default=0)
        place = None if after is None else service_order(after)

        def fits(line: Line) -> bool:
            if line.batchref is not None or line.needs > at_most:
                return False
            if place is not None and service_order(line) <= place:
                return False
            return not line.is_particular or any(
                batch.free >= line.needs and batch.serves(line, today) for batch in good
            )

        offers = [_offer(batch) for batch in good if batch.free >= self.least_wanted]

        def fetch(stocks: Sequence[Stock], behind: Order | None) -> Fetched:
            return self._first_lines(behind, tables.waits, *_is_served(stocks, today))

        found = self._waiting.first(best(offers), fits, fetch)
        return found and self._handed(found)

    def longest_waiting(self) -> Line | None:
        if self._none_waits():
            return None
        query = select(tables.allocations).where(tables.waits)
        return next(iter(self._fetch(query.order_by(*tables.in_service_order).limit(1))), None)

    def promised_later(self, batches: Sequence[Batch], today: date) -> Line | None:
        stocks = {
            Stock.of(batch): batch
            for batch in batches
            if batch.free and batch.is_good(today) and not batch.is_overdue(today)
        }
        offers = [(stock, stocks[stock]) for stock in best(stocks)]
        first_day = min((stock.arrival for stock, _ in offers), default=date.max)

        def fits(line: Line) -> bool:
            day = line.eta
            if day is None or day <= first_day or not (qty := line.held):
                return False
            if line.not_before is not None and day <= line.not_before:
                return False
            for stock, batch in offers:
                if stock.free >= qty and stock.arrival < day and batch.serves(line, today):
                    return True
            return False

        may_move = [
            stock
            for stock, _ in offers
            if stock.free >= self.least_held and stock.arrival < self.latest_promise
        ]

        def fetch(stocks: Sequence[Stock], behind: Order | None) -> Fetched:
            return self._first_lines(behind, tables.improvable, _is_offered(stocks, today))

        found = self._improvable.first(may_move, fits, fetch)
        return found and self._handed(found)

    def waiting_unannounced(self, limit: int) -> Sequence[Line]:
        if self._none_waits():
            return []
        query = select(tables.allocations).where(tables.untold)
        return self._fetch(query.order_by(*tables.in_service_order).limit(limit))

    def lines_that_give_way(self, batchref: str) -> Iterator[Line]:
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

    def add_line(self, line: Line) -> None:
        self.lines.setdefault(line.orderid, {})[line.part] = self._handed(line)

    def remove_line(self, line: Line) -> None:
        self.lines[line.orderid][line.part] = None
        self._waiting.remove(line)
        self._improvable.remove(line)

    def know_batch(self, row: Any) -> None:
        """Take a batch as it is stored."""
        batch = Batch(**{name: getattr(row, name) for name in _BATCH_FIELDS})
        self.batches[row.batchref] = batch
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
        """Write what was changed, then ask: the query sees the changes."""
        changes = Writes(self._connection)
        write([self], changes)
        changes.send()
        return [self._handed(self.know_line(row)) for row in self._rows(query)]

    def _first_lines(self, behind: Order | None, *conditions: ColumnElement[bool]) -> Fetched:
        """The first stored lines by `service_order` for which the conditions held when stored."""
        query = select(tables.allocations).where(*conditions)
        if behind is not None:
            query = query.where(_is_behind(behind))
        rows = self._rows(query.order_by(*tables.in_service_order, _LINE.part).limit(CHUNK))
        lines = self._still_there(rows)
        last = rows[-1] if len(rows) == CHUNK else None
        return lines, last and (-last.priority, last.age, last.part)

    def _still_there(self, rows: Iterable[Any]) -> list[Line]:
        """The lines of the rows, without the lines that were removed since."""
        return [
            self.know_line(row)
            for row in rows
            if self.lines.get(row.orderid, {}).get(row.part, row) is not None
        ]

    def _rows(self, query: Select[Any]) -> Sequence[Any]:
        return self._connection.execute(query.where(_LINE.sku == self._sku)).all()

    def _handed(self, line: Line) -> Line:
        """The line, which may change now: its row no longer says whether it waits, or improves."""
        self._waiting.add(line)
        self._improvable.add(line)
        return line

    def _none_waits(self) -> bool:
        none_stored = self.least_wanted == _NO_LINE_WAITS
        return none_stored and all(line.batchref for line in self._waiting)


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

    asked = (
        select(
            products.sku.label("product"),
            of_lines(func.min(tables.needs), tables.waits).label("least"),
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


def _is_behind(place: Order) -> ColumnElement[bool]:
    """Lines behind this place in the service order."""
    priority, age, part = -place[0], place[1], place[2]
    return or_(
        _LINE.priority < priority,
        and_(_LINE.priority == priority, _LINE.age > age),
        and_(_LINE.priority == priority, _LINE.age == age, _LINE.part > part),
    )


def _is_offered(stocks: Iterable[Stock], today: date) -> ColumnElement[bool]:
    """Lines that some stock is enough for, comes early enough for, and is good for."""
    return or_(
        *(
            and_(
                tables.holds <= stock.free,
                _LINE.eta > stock.arrival,
                _LINE.fresh_days <= stock.good_days(today),
            )
            for stock in stocks
        )
    )


def _offer(batch: Batch) -> Stock:
    """What the batch offers to lines that wait: without a last day, each of its days is as good."""
    stock = Stock.of(batch)
    return stock if batch.best_before else stock._replace(arrival=date.min)


def _is_served(stocks: Sequence[Stock], today: date) -> Iterator[ColumnElement[bool]]:
    """Lines that some stock is enough for, and is good for, as `Batch.serves` says."""
    yield tables.needs <= max(stock.free for stock in stocks)
    yield or_(*(_has_enough(stock, today) for stock in stocks))


def _has_enough(stock: Stock, today: date) -> ColumnElement[bool]:
    enough = tables.needs <= stock.free
    if stock.expiry == date.max:
        return enough
    last_day = tables.DaysBefore(literal(stock.expiry), _LINE.fresh_days)
    return and_(
        enough,
        _LINE.fresh_days <= stock.good_days(today),
        or_(_LINE.not_before.is_(None), last_day >= _LINE.not_before),
    )


def _state(line: Line) -> tuple[Any, ...]:
    return tuple(vars(line).values())


def _numbers(batch: Batch) -> tuple[Any, ...]:
    return tuple(getattr(batch, name) for name in _CHANGING)
