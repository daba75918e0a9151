"""The response schemas of order lines, which allocations, orders and reservations share."""

from allocation.entrypoints.api.description import schemas as s

UNTIL = s.TIME | {"description": "Until when it is held."}
PART: s.Json = {
    "type": "integer",
    "minimum": 0,
    "description": "Which part of the line: each batch that serves it has one, and what waits"
    " has one. 0 for a line that was never split; no number is used twice.",
}
STATUS = s.one_of("allocated", "reserved", "waiting", "dispatched")
STATUS_OF_WHOLE = s.one_of("allocated", "reserved", "waiting", "dispatched", "in parts")
PROMISE = {
    "batchref": {"anyOf": [s.BATCHREF, {"type": "null"}], "description": "null: it waits."},
    "eta": s.ETA | {"description": "Of its batch; null: on the shelf, or waiting."},
}
PARTS = s.record(part=PART, qty=s.QTY, status=STATUS, **PROMISE, optional={"expires_at": UNTIL})
"""One part of a line that several batches serve."""

_LINE = {"orderid": s.ORDERID, "sku": s.SKU, "qty": s.QTY}
ALLOCATED = {
    **_LINE,
    "status": s.one_of("allocated", "dispatched"),
    "batchref": s.BATCHREF,
    "eta": s.ETA | {"description": "Of its batch; null: on the shelf."},
}
WAITING: dict[str, s.Json] = {
    **_LINE,
    "status": s.one_of("waiting"),
    "batchref": {"type": "null"},
    "eta": {"type": "null"},
}
IN_PARTS = {
    **_LINE,
    "status": STATUS_OF_WHOLE,
    "parts": s.array(PARTS, "One for each batch that serves the line, and one for what waits."),
}


def line(*kinds: dict[str, s.Json]) -> s.Json:
    """One of these, with what the request said besides, and until when the line is held."""
    besides = {name: s.field(name, "allocation.reserve") for name in ("customer", "split")} | {
        "expires_at": s.TIME
    }
    return {"anyOf": [s.record(**kind, optional=besides) for kind in kinds]}
