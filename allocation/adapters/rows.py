"""Rows into a table, by one statement that costs little for each of them."""

import json
from collections.abc import Mapping, Sequence
from functools import cache
from uuid import UUID

from sqlalchemy import (
    Connection,
    Delete,
    Table,
    TableValuedAlias,
    Update,
    bindparam,
    column,
    func,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.sql.dml import ReturningInsert

Insert = postgresql.Insert | sqlite.Insert

Row = Mapping[str, object]


def add(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Insert the rows in their order; all have the same columns."""
    if _as_json(connection, rows):
        connection.execute(_from_json(table, tuple(rows[0])), _json(rows))
    else:
        connection.execute(_plain(table, connection.dialect.name), _one_or_all(rows))


def add_new(connection: Connection, table: Table, rows: Sequence[Row]) -> set[UUID]:
    """Insert those of the rows whose id is not there yet; returns their ids.

    Waits while another transaction is about to insert one.
    """
    if _as_json(connection, rows):
        return set(connection.scalars(_new_from_json(table, tuple(rows[0])), _json(rows)))
    return set(connection.scalars(_new(table, connection.dialect.name), _one_or_all(rows)))


def change(connection: Connection, table: Table, rows: Sequence[Row]) -> None:
    """Update the rows by their primary keys; all have the same columns, the keys among them."""
    if _as_json(connection, rows):
        connection.execute(_changed_by_json(table, tuple(rows[0])), _json(rows))
    else:
        # A bound parameter may not be called like a column that is set.
        given = [{f"to_{name}": value for name, value in row.items()} for row in rows]
        connection.execute(_changed(table, tuple(rows[0])), _one_or_all(given))


def remove(connection: Connection, table: Table, keys: Sequence[Row]) -> None:
    """Delete the rows of these primary keys."""
    connection.execute(_removed(table), keys)


def _one_or_all(rows: Sequence[Row]) -> Row | Sequence[Row]:
    """A row that is alone goes by the plain way: that of many costs twice as much."""
    return rows[0] if len(rows) == 1 else rows


def _as_json(connection: Connection, rows: Sequence[Row]) -> bool:
    """Whether the rows go as one parameter: as VALUES, many cost both sides several times more."""
    return len(rows) > 1 and connection.dialect.name == "postgresql"


def _json(rows: Sequence[Row]) -> dict[str, str]:
    return {"rows": json.dumps(rows, default=str)}


# Statements are built once: that takes longer than to send one.


@cache
def _plain(table: Table, dialect: str) -> Insert:
    return (postgresql if dialect == "postgresql" else sqlite).insert(table)


@cache
def _new(table: Table, dialect: str) -> ReturningInsert[UUID]:
    return _only_new(_plain(table, dialect), table)


@cache
def _from_json(table: Table, names: tuple[str, ...]) -> Insert:
    """Insert the rows of a JSON array that is given as `rows`."""
    given = _given(table, names)
    from_given = select(*(given.c[name] for name in names))
    made: Insert = postgresql.insert(table).from_select(names, from_given)
    return made


@cache
def _changed_by_json(table: Table, names: tuple[str, ...]) -> Update:
    given = _given(table, names)
    keys = {key.name for key in table.primary_key}
    return (
        table.update()
        .where(*(table.c[key] == given.c[key] for key in keys))
        .values({name: given.c[name] for name in names if name not in keys})
    )


@cache
def _changed(table: Table, names: tuple[str, ...]) -> Update:
    keys = {key.name for key in table.primary_key}
    return (
        table.update()
        .where(*(table.c[key] == bindparam(f"to_{key}") for key in keys))
        .values({name: bindparam(f"to_{name}") for name in names if name not in keys})
    )


@cache
def _removed(table: Table) -> Delete:
    return table.delete().where(*(key == bindparam(key.name) for key in table.primary_key))


def _given(table: Table, names: tuple[str, ...]) -> TableValuedAlias:
    """The rows of a JSON array that is a parameter, as a table."""
    return (
        func.json_to_recordset(bindparam("rows"))
        .table_valued(*(column(name, table.c[name].type) for name in names))
        .render_derived(name="given", with_types=True)
    )


@cache
def _new_from_json(table: Table, names: tuple[str, ...]) -> ReturningInsert[UUID]:
    return _only_new(_from_json(table, names), table)


def _only_new(statement: Insert, table: Table) -> ReturningInsert[UUID]:
    return statement.on_conflict_do_nothing(index_elements=["id"]).returning(table.c.id)
