"""Reads the stored rows of many order lines with one statement."""

from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import Connection, Dialect, Result, Select, literal_column, text

from allocation.messaging.database import among, is_postgresql
from allocation.messaging.statements import as_array, prepared

LineKey = tuple[str, str]
"""The orderid and the sku of an order line."""


def rows_of(connection: Connection, query: Select[Any], lines: Collection[LineKey]) -> Result[Any]:
    """The rows of at least these lines; `query` selects columns called `orderid` and `sku`."""
    orderids, skus = [orderid for orderid, _ in lines], [sku for _, sku in lines]
    if is_postgresql(connection):
        name = prepared(
            connection, _of_lines_sql(query, connection.dialect), "varchar[], varchar[]"
        )
        statement = text(f"EXECUTE {name} (:orderids, :skus)").columns(*query.selected_columns)
        return connection.execute(
            statement, {"orderids": as_array(orderids), "skus": as_array(skus)}
        )
    return connection.execute(
        _of_lines(query), {"orderids": list(set(orderids)), "skus": list(set(skus))}
    )


# Statements are built once, as building one takes longer than sending it.


@cache
def _of_lines_sql(query: Select[Any], dialect: Dialect) -> str:
    columns = query.selected_columns
    of_line = query.where(
        columns.orderid == literal_column("given.orderid"),
        columns.sku == literal_column("given.sku"),
    ).offset(literal_column("0"))
    return _EACH.format(of_line=of_line.compile(dialect=dialect))


# PostgreSQL looks each line up by an index; the OFFSET keeps it from another plan.
_EACH = """
    SELECT found.* FROM unnest($1, $2) AS given (orderid, sku), LATERAL ({of_line}) AS found"""


@cache
def _of_lines(query: Select[Any]) -> Select[Any]:
    columns = query.selected_columns
    return query.where(
        among(columns.orderid, "orderids", "sqlite"), among(columns.sku, "skus", "sqlite")
    )
