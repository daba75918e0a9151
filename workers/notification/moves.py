"""The ledgers of order lines, as rows: which pieces have no batch, and which one they had."""

from collections import defaultdict
from collections.abc import Collection, Mapping
from functools import cache
from typing import Any

from sqlalchemy import Connection, Select, bindparam, delete, select

from allocation.messaging.database import among, insert_into
from workers.notification.ledger import Entry, Ledger
from workers.notification.tables import moving

Line = tuple[str, str]
"""An order line: its orderid and sku."""

Entries = Mapping[Line, Collection[Entry]]


def read(connection: Connection, lines: Collection[Line]) -> Entries:
    """The entries of at least these lines."""
    rows = connection.execute(
        _asked(connection.dialect.name),
        {
            "orderids": list({orderid for orderid, _ in lines}),
            "skus": list({sku for _, sku in lines}),
        },
    )
    entries: defaultdict[Line, list[Entry]] = defaultdict(list)
    for row in rows:
        entry = Entry(row.part, row.batchref, row.qty, row.sequence, row.told)
        entries[row.orderid, row.sku].append(entry)
    return entries


@cache
def _asked(dialect: str) -> Select[Any]:
    columns = moving.c
    return select(moving).where(
        among(columns.orderid, "orderids", dialect), among(columns.sku, "skus", dialect)
    )


def save(connection: Connection, before: Entries, after: Mapping[Line, Ledger]) -> None:
    """Write what the ledgers changed since `before` was read."""
    columns = moving.c
    old = {(line, entry) for line in after for entry in before.get(line, ())}
    new = {(line, entry) for line, ledger in after.items() for entry in ledger.entries}
    if gone := old - new:
        connection.execute(
            delete(moving).where(
                columns.orderid == bindparam("order"),
                columns.sku == bindparam("of"),
                columns.sequence == bindparam("number"),
            ),
            [
                {"order": orderid, "of": sku, "number": entry.sequence}
                for (orderid, sku), entry in gone
            ],
        )
    if come := new - old:
        connection.execute(
            insert_into(moving, connection.dialect.name),
            [
                {
                    "orderid": orderid,
                    "sku": sku,
                    "sequence": entry.sequence,
                    "part": entry.part,
                    "batchref": entry.batchref,
                    "qty": entry.qty,
                    "told": entry.told,
                }
                for (orderid, sku), entry in come
            ],
        )
