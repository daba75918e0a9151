"""The response schemas of order lines, which allocations, orders and reservations share."""

from allocation.entrypoints.api.description import schemas
from allocation.entrypoints.api.description.schemas import (
    BATCHREF,
    ETA,
    ORDERID,
    QTY,
    SKU,
    TIME,
    Json,
    array,
    one_of,
    record,
)

UNTIL = TIME | {"description": "Until when it is held."}
PART: Json = {
    "type": "integer",
    "minimum": 0,
    "description": "Which part of the line: each batch that serves it has one, and what waits"
    " has one. 0 for a line that was never split; no number is used twice.",
}
STATUS = one_of("allocated", "reserved", "waiting", "dispatched")
STATUS_OF_WHOLE = one_of("allocated", "reserved", "waiting", "dispatched", "in parts")
PROMISE = {
    "batchref": {"anyOf": [BATCHREF, {"type": "null"}], "description": "null: it waits."},
    "eta": ETA | {"description": "Of its batch; null: on the shelf, or waiting."},
}
PARTS = record(part=PART, qty=QTY, status=STATUS, **PROMISE, optional={"expires_at": UNTIL})
"""One part of a line that several batches serve."""

ALLOCATED = {
    "orderid": ORDERID,
    "sku": SKU,
    "qty": QTY,
    "status": one_of("allocated", "dispatched"),
    "batchref": BATCHREF,
    "eta": ETA | {"description": "Of its batch; null: on the shelf."},
}
WAITING: dict[str, Json] = {
    "orderid": ORDERID,
    "sku": SKU,
    "qty": QTY,
    "status": one_of("waiting"),
    "batchref": {"type": "null"},
    "eta": {"type": "null"},
}
IN_PARTS = {
    "orderid": ORDERID,
    "sku": SKU,
    "qty": QTY,
    "status": STATUS_OF_WHOLE,
    "parts": array(PARTS, "One for each batch that serves the line, and one for what waits."),
}


def line(*kinds: dict[str, Json]) -> Json:
    """One of these, with what the request said besides, and until when the line is held."""
    besides = {
        name: schemas.field(name, "allocation.reserve") for name in ("customer", "split")
    } | {"expires_at": TIME}
    return {"anyOf": [record(**kind, optional=besides) for kind in kinds]}
