"""Moves: what happened to stock and lines, each with what it was decided from."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from allocation.adapters.sql.tables import commands, outbox
from allocation.views import Json

_DATA = (
    *("part", "old_qty", "qty", "left", "batchref", "eta", "old_eta", "new_eta", "best_before"),
    *("expires_at", "reason", "usable", "priority", "strategy"),
)


def of_product(
    connection: Connection, sku: str, *, before: int | None = None, limit: int = 20
) -> list[Json]:
    """The last moves of the product that are kept, before that sequence, the newest first."""
    statement = (
        select(outbox)
        .where(outbox.c.sku == sku, outbox.c.sequence.is_not(None))
        .order_by(outbox.c.sequence.desc())
        .limit(limit)
    )
    if before is not None:
        statement = statement.where(outbox.c.sequence < before)
    return _moves(connection, connection.execute(statement).all())


def of_order(connection: Connection, orderid: str, *, limit: int) -> list[Json]:
    """The last moves of the order's lines that are kept, the newest first."""
    statement = (
        select(outbox)
        .where(outbox.c.orderid == orderid)
        .order_by(outbox.c.position.desc())
        .limit(limit)
    )
    return _moves(connection, connection.execute(statement).all())


def decisions(connection: Connection, rows: Sequence[Any]) -> list[Json]:
    """What the rows of the outbox say, each with what it was decided from and what began it."""
    if not rows:
        return []
    # The commands that began it all, as far as they came in here and are kept.
    statement = select(commands.c.id, commands.c.name, commands.c.body).where(
        commands.c.id.in_({row.correlation_id for row in rows})
    )
    roots = {row.id: row for row in connection.execute(statement)}
    return [_decision(row, roots.get(row.correlation_id)) for row in rows]


def _moves(connection: Connection, rows: Sequence[Any]) -> list[Json]:
    """As `decisions`, each with its order and product."""
    return [
        {"orderid": row.orderid, "sku": row.sku, **each}
        for row, each in zip(rows, decisions(connection, rows), strict=True)
    ]


def _decision(row: Any, root: Any) -> Json:
    data = row.body["data"]
    made: Json = {
        "event": row.name,
        "sequence": row.sequence,
        "time": row.body["time"],
        "cause": {"id": row.body["causationid"], "command": row.body["causationtype"]},
        "began_with": {
            "id": row.body["correlationid"],
            "command": root.name if root else None,
            "body": root.body if root else None,
        },
        **{name: data[name] for name in _DATA if name in data},
    }
    if row.choice:
        chosen = data.get("batchref")
        made["candidates"] = row.choice["candidates"]
        made["considered"] = [
            each | {"verdict": _verdict(each, data["qty"], chosen)}
            for each in row.choice["considered"]
        ]
    return made


def _verdict(candidate: Json, qty: int, chosen: str | None) -> str:
    if candidate["batchref"] == chosen:
        return "chosen: the first in the order of preference that fits"
    if candidate["free"] < qty:
        return f"passed over: {candidate['free']} free, {qty} wanted"
    if chosen is None:
        return "passed over: an older or more urgent line waits for it"
    return "passed over: the line keeps its batch"
