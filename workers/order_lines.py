"""Reads the stored rows of many order lines with one statement."""

from collections.abc import Collection
from functools import cache
from typing import Any

from sqlalchemy import Connection, Result, Select

from allocation.messaging.database import among

LineKey = tuple[str, str]
"""The orderid and the sku of an order line."""


def rows_of(connection: Connection, query: Select[Any], lines: Collection[LineKey]) -> Result[Any]:
    """The rows of at least these lines; `query` selects columns called `orderid` and `sku`."""
    return connection.execute(
        _of_lines(query, connection.dialect.name),
        {
            "orderids": list({orderid for orderid, _ in lines}),
            "skus": list({sku for _, sku in lines}),
        },
    )


@cache  # building a statement takes longer than sending it
def _of_lines(query: Select[Any], dialect: str) -> Select[Any]:
    columns = query.selected_columns
    return query.where(
        among(columns.orderid, "orderids", dialect), among(columns.sku, "skus", dialect)
    )
