"""Inserts, updates and deletes of many rows, sent to the database together."""

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from itertools import count
from uuid import UUID

from sqlalchemy import (
    ClauseElement,
    Connection,
    Delete,
    Dialect,
    Subquery,
    Table,
    Update,
    bindparam,
    column,
    func,
    literal_column,
    select,
)
from sqlalchemy.dialects import postgresql, sqlite

from allocation.messaging.database import is_postgresql

Row = Mapping[str, object]

_ENCODER = json.JSONEncoder(default=str)
_numbers = count()


class Writes:
    """Changes of rows; `send` makes them in their order.

    PostgreSQL gets all of them as one message, and the rows of a statement as one JSON text: a
    round trip costs as much as the work itself, and many VALUES cost both sides several times more.
    The statements are prepared: to plan one costs as much as to execute it.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._on_postgresql = is_postgresql(connection)
        self._statements: list[str] = []
        self._parameters: dict[str, object] = {}

    def add(self, table: Table, rows: Sequence[Row]) -> None:
        """Insert the rows in their order; all have the same columns."""
        if self._on_postgresql:
            self._put("added", table, rows)
        elif rows:
            self._connection.execute(sqlite.insert(table), rows)

    def change(self, table: Table, rows: Sequence[Row]) -> None:
        """Update the rows by their primary keys; all have the same columns, the keys among them."""
        if self._on_postgresql:
            self._put("changed", table, rows)
        elif rows:
            # A bound parameter may not be called like a column that is set.
            given = [{f"to_{name}": value for name, value in row.items()} for row in rows]
            self._connection.execute(_changed(table, tuple(rows[0])), given)

    def remove(self, table: Table, keys: Sequence[Row]) -> None:
        """Delete the rows of these primary keys."""
        if self._on_postgresql:
            self._put("gone", table, keys)
        elif keys:
            self._connection.execute(_removed(table), keys)

    def notify(self, channel: str) -> None:
        """Notify listeners of the channel when the transaction commits, and only then."""
        if self._on_postgresql:
            self._statements.append(f"NOTIFY {channel}")

    def send(self) -> None:
        """Send all changes to the database."""
        if self._statements:
            self._connection.exec_driver_sql("; ".join(self._statements), self._parameters)
        self._statements, self._parameters = [], {}

    def _put(self, change: str, table: Table, rows: Sequence[Row]) -> None:
        if not rows:
            return
        name = f"{change}_{table.name}"
        if name in self._parameters:
            self.send()
        sql = _sql(change, table, tuple(rows[0]), self._connection.dialect)
        planned = prepared(self._connection, sql, "json, bigint")
        self._statements.append(f"EXECUTE {planned} (%({name})s, %({name}_count)s)")
        self._parameters |= {name: as_json(rows), f"{name}_count": len(rows)}


def prepared(connection: Connection, sql: str, types: str) -> str:
    """The name under which PostgreSQL knows this statement on this connection, once planned.

    Its parameters are $1, $2 and so on, of these types.
    """
    known: dict[str, str] = connection.info.setdefault("prepared", {})
    if sql not in known:
        # A new name each time: after an error it is unknown whether the old one is taken.
        name = f"prepared_{next(_numbers)}"
        connection.exec_driver_sql(f"PREPARE {name} ({types}) AS {sql}")
        known[sql] = name
    return known[sql]


def add_new(connection: Connection, table: Table, rows: Sequence[Row]) -> set[UUID]:
    """Insert the rows with new ids; returns these ids.

    Waits while another transaction is about to insert one of them.
    """
    if is_postgresql(connection):
        sql = _sql("added_if_new", table, tuple(rows[0]), connection.dialect)
        planned = prepared(connection, sql, "json, bigint")
        given = {"rows": as_json(rows), "count": len(rows)}
        added = connection.exec_driver_sql(f"EXECUTE {planned} (%(rows)s, %(count)s)", given)
        return set(added.scalars())
    insert = sqlite.insert(table).on_conflict_do_nothing(index_elements=["id"])
    return set(connection.scalars(insert.returning(table.c.id), rows))


def as_json(rows: Sequence[Row]) -> str:
    """The rows as one JSON text, for PostgreSQL's `json_to_recordset`."""
    return _ENCODER.encode(rows)


def as_array(texts: Iterable[str]) -> str:
    """The texts as PostgreSQL reads an array: a list would be a constant for each of them.

    They have no control characters: of the others, JSON escapes the same ones in the same way.
    """
    return "{" + json.dumps(list(texts), ensure_ascii=False)[1:-1] + "}"


# Statements are built once: that takes longer than to send one.


@cache
def _sql(change: str, table: Table, columns: tuple[str, ...], dialect: Dialect) -> str:
    """PostgreSQL's statement for rows that are added, or only with new ids, changed or gone."""
    given = _given(table, columns)
    keys = [key.key for key in table.primary_key]
    is_given = (table.c[key] == given.c[key] for key in keys)
    values = {column: given.c[column] for column in columns}
    statement: ClauseElement
    match change:
        case "changed":
            changed = {name: value for name, value in values.items() if name not in keys}
            statement = table.update().where(*is_given).values(changed)
        case "gone":
            statement = table.delete().where(*is_given)
        case _:
            insert = postgresql.insert(table).from_select(columns, select(*values.values()))
            statement = insert
            if change == "added_if_new":
                new = insert.on_conflict_do_nothing(index_elements=["id"])
                statement = new.returning(table.c.id)
    return str(statement.compile(dialect=dialect))


def _given(table: Table, columns: tuple[str, ...]) -> Subquery:
    """The rows of the JSON array $1, of which there are $2, as a table.

    Without the limit PostgreSQL expects a hundred rows, and scans a table of some thousand rows
    instead of using its index.
    """
    rows = (
        func.json_to_recordset(literal_column("$1"))
        .table_valued(*(column(each, table.c[each].type) for each in columns))
        .render_derived(name="rows", with_types=True)
    )
    return select(rows).limit(literal_column("$2")).subquery("given")


@cache
def _changed(table: Table, columns: tuple[str, ...]) -> Update:
    keys = {key.key for key in table.primary_key}
    return (
        table.update()
        .where(*(table.c[key] == bindparam(f"to_{key}") for key in keys))
        .values({name: bindparam(f"to_{name}") for name in columns if name not in keys})
    )


@cache
def _removed(table: Table) -> Delete:
    return table.delete().where(*(key == bindparam(key.key) for key in table.primary_key))
