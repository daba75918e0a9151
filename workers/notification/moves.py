"""Which order lines are on the move: they had to leave a batch, and have no other yet."""

from collections.abc import Collection
from dataclasses import dataclass
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, select

from workers.database import among, insert_into
from workers.notification.tables import moving


@dataclass(frozen=True, slots=True)
class Left:
    """The batch that a line had to leave, and the event that told it."""

    batchref: str
    sequence: int


Line = tuple[str, str]
"""An order line: its orderid and sku."""

Moving = dict[Line, Left]
"""The lines that are on the move."""


def read(connection: Connection, lines: Collection[Line]) -> Moving:
    """Those on the move, of at least these lines."""
    rows = connection.execute(
        _asked(connection.dialect.name),
        {
            "orderids": list({orderid for orderid, _ in lines}),
            "skus": list({sku for _, sku in lines}),
        },
    )
    return {(row.orderid, row.sku): Left(row.batchref, row.sequence) for row in rows}


@cache
def _asked(dialect: str) -> Select[Any]:
    columns = moving.c
    return select(moving).where(
        among(columns.orderid, "orderids", dialect), among(columns.sku, "skus", dialect)
    )


def save(connection: Connection, before: Moving, after: Moving) -> None:
    """Write what changed since `before` was read."""
    columns = moving.c
    gone = [line for line in before if after.get(line) != before[line]]
    come = [line for line in after if after[line] != before.get(line)]
    if gone:
        connection.execute(
            delete(moving).where(
                columns.orderid == bindparam("order"), columns.sku == bindparam("of")
            ),
            [{"order": orderid, "of": sku} for orderid, sku in gone],
        )
    if come:
        connection.execute(
            insert_into(moving, connection.dialect.name),
            [
                {
                    "orderid": line[0],
                    "sku": line[1],
                    "batchref": after[line].batchref,
                    "sequence": after[line].sequence,
                }
                for line in come
            ],
        )
