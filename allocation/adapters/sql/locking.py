"""Locks products, and reads what rules need under these locks.

On PostgreSQL all of it is one message. Its first statement locks, the second one reads: at READ
COMMITTED each has a snapshot of its own, and that of a statement that waited for a lock is from
before the wait. The second one may see a product that was added after the first one: it is not
locked, and counts as not known.
"""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime
from functools import cache
from time import perf_counter
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Date,
    Dialect,
    Float,
    Select,
    String,
    Text,
    Uuid,
    and_,
    any_,
    bindparam,
    cast,
    extract,
    func,
    literal_column,
    select,
    true,
    tuple_,
)
from sqlalchemy.sql.selectable import LateralFromClause

from allocation.adapters.sql import tables
from allocation.messaging.database import among, is_postgresql
from allocation.messaging.statements import as_array, prepared

Row = Mapping[Any, Any]
"""A row by the names of its columns."""

_LINE = tables.allocations.c
_BATCH = tables.batches.c
_TYPES = {"refs": "text[]", "orderids": "text[]", "line_skus": "text[]", "ids": "uuid[]"}
_RECORDED = ("id", "name", "body", "status", "outcome", "correlation_id")
_commands = select(*(tables.commands.c[name] for name in _RECORDED))
_LOCKED: ColumnElement[str] = literal_column("'allocation.locked'")
"""A setting of the transaction: the skus that the first statement locked, for the second one."""


class Read(NamedTuple):
    """What was read under the locks, each row by the names of its columns.

    `now` is the time on PostgreSQL's clock, once all products were locked, which took `seconds`.
    `stock` has a row for each open batch of a product, or one without a batch.
    """

    now: datetime | None
    seconds: float
    stock: Sequence[Row]
    batches: Sequence[Row]
    lines: Sequence[Row]
    commands: Sequence[Row]


def lock(
    connection: Connection,
    skus: Collection[str],
    batchrefs: Collection[str],
    lines: Collection[tuple[str, str]],
    command_ids: Collection[UUID],
) -> Read:
    """Lock the products of these skus, in their order, and the rows of these commands.

    The open batches of the products come with them, the batches of these references, and the
    `lines` (orderid, sku).
    """
    orderids, line_skus = zip(*lines, strict=True) if lines else ((), ())
    asked: dict[str, Collection[Any]] = {
        "skus": skus,
        "refs": batchrefs,
        "orderids": orderids,
        "line_skus": line_skus,
        "ids": sorted(command_ids),  # locked in this order: no deadlock
    }
    on_one = _on_postgresql if is_postgresql(connection) else _on_sqlite
    return on_one(connection, asked)


def _on_postgresql(connection: Connection, asked: Mapping[str, Collection[Any]]) -> Read:
    dialect = connection.dialect
    lock_products = prepared(connection, _lock(dialect), "text[]")
    read = prepared(connection, _read(dialect), ", ".join(_TYPES.values()))
    found = connection.exec_driver_sql(
        # Else plans that were made for small tables would scan them when they are large.
        "SET LOCAL enable_seqscan TO off;"
        f" EXECUTE {lock_products} (%(skus)s);"
        f" EXECUTE {read} ({', '.join(f'%({each})s' for each in _TYPES)})",
        {name: as_array(map(str, values)) for name, values in asked.items()},
    ).one()
    rows = {
        name: _converted(getattr(found, name) or (), _converters(query))
        for name, query in _queries("postgresql").items()
    }
    return Read(found.now.astimezone(UTC), found.seconds, **rows)


def _on_sqlite(connection: Connection, asked: Mapping[str, Collection[Any]]) -> Read:
    began = perf_counter()
    pairs = list(zip(asked["orderids"], asked["line_skus"], strict=True))
    asked = {name: list(values) for name, values in asked.items()} | {"pairs": pairs}
    rows: dict[str, Sequence[Row]] = {}
    for name, query in _queries("sqlite").items():
        needed = {each: asked[each] for each in query.compile().params}
        rows[name] = [row._mapping for row in connection.execute(query, needed)]
    return Read(None, perf_counter() - began, **rows)


@cache
def _queries(dialect: str) -> Mapping[str, Select[Any]]:
    """What is read, by the names of `Read`. Statements are built once: it takes longer than one."""
    known = tables.commands.c
    lines = {"orderids": _LINE.orderid, "line_skus": _LINE.sku}
    return {
        "stock": _stock(dialect),
        "batches": _each(select(tables.batches), {"refs": _BATCH.batchref}, dialect),
        "lines": _each(select(tables.allocations), lines, dialect),
        "commands": _each(_commands.with_for_update(), {"ids": known.id}, dialect),
    }


@cache
def recorded(dialect: str) -> Select[Any]:
    """The rows of the commands `ids`, locked in the order of their ids: no deadlock."""
    known = tables.commands.c.id
    return _commands.where(among(known, "ids", dialect)).order_by(known).with_for_update()


def _stock(dialect: str) -> Select[Any]:
    """The locked products, what says that no line waits, or improves, and their open batches.

    Also whether events are unsent: then the last one is, as they are marked in their order.
    """
    products, event = tables.products.c, tables.outbox.c

    def of_lines(value: Any, condition: Any) -> Any:
        return select(value).where(_LINE.sku == products.sku, condition).scalar_subquery()

    asked = (
        select(
            products.sku.label("product"),
            *(each for each in products if each is not products.sku),
            of_lines(func.min(tables.needs), tables.waits).label("least"),
            of_lines(func.min(tables.holds), tables.improvable).label("least_held"),
            of_lines(func.max(_LINE.eta), tables.improvable).label("latest_promise"),
            # As a value, not a condition: that PostgreSQL would look for among all unsent rows.
            select(tables.is_unsent)
            .where(event.sku == products.sku, event.sequence == products.sequence)
            .scalar_subquery()
            .label("has_unsent_events"),
        )
        .where(_is_locked(dialect))
        .subquery("asked")
    )
    its_open_ones = and_(_BATCH.sku == asked.c.product, tables.is_open)
    if dialect == "postgresql":
        found = _looked_up(select(tables.batches).where(its_open_ones))
        return select(asked, found).outerjoin_from(asked, found, true())
    return select(asked, tables.batches).outerjoin_from(asked, tables.batches, its_open_ones)


def _each(query: Select[Any], asked: Mapping[str, ColumnElement[Any]], dialect: str) -> Select[Any]:
    """The rows that the columns have the asked values of; by the names of their parameters."""
    if dialect == "postgresql":
        arrays = (bindparam(name, type_=ARRAY(column.type)) for name, column in asked.items())
        given = func.unnest(*arrays).table_valued(*asked).render_derived(name="given")
        matches = (column == given.c[name] for name, column in asked.items())
        found = _looked_up(query.where(*matches))
        return select(found).select_from(given).join(found, true())
    if len(asked) > 1:
        return query.where(tuple_(*asked.values()).in_(bindparam("pairs", expanding=True)))
    [(name, column)] = asked.items()
    return query.where(among(column, name, dialect))


def _looked_up(query: Select[Any]) -> LateralFromClause:
    """The query, executed for each row that it refers to.

    PostgreSQL would make a join of it, without an index: it plans a statement once, maybe while the
    tables are nearly empty. The offset prevents that.
    """
    return query.offset(literal_column("0")).lateral()


def _is_locked(dialect: str) -> ColumnElement[bool]:
    sku = tables.products.c.sku
    if dialect != "postgresql":
        return among(sku, "skus", dialect)
    return sku == any_(cast(func.current_setting(_LOCKED), ARRAY(String)))


@cache
def _lock(dialect: Dialect) -> str:
    """The statement that locks the skus $1."""
    sku = tables.products.c.sku
    # Every transaction locks in the order of the skus: no deadlock.
    query = select(sku).where(among(sku, "skus", dialect.name)).order_by(sku).with_for_update()
    locked = func.coalesce(func.array_agg(query.subquery().c.sku), literal_column("'{}'"))
    told = select(func.set_config(_LOCKED, cast(locked, Text), true()))
    return str(told.compile(dialect=dialect)) % {"skus": "$1"}


@cache
def _read(dialect: Dialect) -> str:
    """The statement that reads, with the parameters _TYPES; each query is one JSON array."""
    arrays = (
        select(func.json_agg(query.subquery(name).table_valued())).scalar_subquery().label(name)
        for name, query in _queries(dialect.name).items()
    )
    now = func.clock_timestamp()
    # `statement_timestamp` is when the whole message came, with the statement that locked before.
    seconds = cast(extract("epoch", now - func.statement_timestamp()), Float)
    query = select(now.label("now"), seconds.label("seconds"), *arrays)
    places = {name: f"${number}" for number, name in enumerate(_TYPES, start=1)}
    return str(query.compile(dialect=dialect)) % places


def _converted(
    rows: Iterable[dict[str, Any]], converters: Mapping[str, Callable[[str], object]]
) -> list[Row]:
    """Rows of JSON with the values that JSON has only as text."""
    converted: list[Row] = []
    for row in rows:
        for name, convert in converters.items():
            if (text := row[name]) is not None:
                row[name] = convert(text)
        converted.append(row)
    return converted


_CONVERTERS: Mapping[type, Callable[[str], object]] = {
    Date: date.fromisoformat,
    tables.UtcDateTime: lambda text: datetime.fromisoformat(text).astimezone(UTC),
    Uuid: UUID,
}


@cache
def _converters(query: Select[Any]) -> Mapping[str, Callable[[str], object]]:
    return {
        str(column.key): _CONVERTERS[type(column.type)]
        for column in query.selected_columns
        if type(column.type) in _CONVERTERS
    }
