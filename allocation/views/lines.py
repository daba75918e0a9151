"""Order lines: how those of an order stand, and why."""

from typing import Any

from sqlalchemy import Connection, select

from allocation.adapters.tables import allocations, batches, commands, outbox
from allocation.views import Json
from allocation.views.stock import day

DECISIONS_SHOWN = 100
"""Decisions that the explanation of a line lists at most."""

_SHOWN = ("part", "qty", "batchref", "eta", "old_eta", "new_eta", "expires_at", "reason")


def order(connection: Connection, orderid: str) -> Json | None:
    """Every line of the order, by sku; None when it has none."""
    # The lines of one order, each with the ETA of the batch that it is promised.
    statement = (
        select(allocations, batches.c.eta.label("batch_eta"))
        .outerjoin(batches, batches.c.batchref == allocations.c.batchref)
        .where(allocations.c.orderid == orderid)
        .order_by(allocations.c.sku, allocations.c.part)
    )
    lines = [
        {
            "sku": row.sku,
            "qty": row.qty,
            "status": status_of(row),
            "batchref": row.batchref,
            "eta": day(row.batch_eta),
            "expires_at": row.expires_at.isoformat() if row.expires_at else None,
        }
        for row in connection.execute(statement)
    ]
    return {"orderid": orderid, "lines": lines} if lines else None


def explanation(connection: Connection, orderid: str, sku: str) -> Json | None:
    """Why an order line stands where it does: every decision about it that is kept, oldest first.

    None when the order never had such a line, or nothing of it is kept. At most the last
    DECISIONS_SHOWN decisions.
    """
    # The line itself, if it was not given up: in parts, where several batches serve it.
    parts = connection.execute(
        select(allocations).where(allocations.c.orderid == orderid, allocations.c.sku == sku)
    ).all()
    # What happened to it, with what each choice was made from.
    rows = connection.execute(
        select(outbox)
        .where(outbox.c.orderid == orderid, outbox.c.sku == sku)
        .order_by(outbox.c.sequence.desc())
        .limit(DECISIONS_SHOWN)
    ).all()
    if not parts and not rows:
        return None
    statuses = {status_of(part) for part in parts}
    # The commands that began it all, as far as they came in here and are kept.
    began_with = {row.correlation_id for row in rows}
    roots = {
        row.id: row
        for row in connection.execute(
            select(commands.c.id, commands.c.name, commands.c.body).where(
                commands.c.id.in_(began_with)
            )
        )
    }
    return {
        "orderid": orderid,
        "sku": sku,
        "status": ("in parts" if len(statuses) > 1 else min(statuses, default="given up")),
        "decisions": [_decision(row, roots.get(row.correlation_id)) for row in reversed(rows)],
    }


def status_of(line: Any) -> str:
    """How a row of the lines stands: waiting, reserved, allocated or dispatched."""
    if line.batchref is None:
        return "waiting"
    if line.dispatched:
        return "dispatched"
    return "allocated" if line.expires_at is None else "reserved"


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
        **{name: data[name] for name in _SHOWN if name in data},
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
    return f"passed over: {candidate['free']} free, {qty} wanted"
