"""The response schemas of order lines, which allocations, orders and reservations share."""

from allocation.entrypoints.api.description import schemas as s

UNTIL = s.TIME | {"description": "The end of the reservation."}
PART: s.Json = {
    "type": "integer",
    "minimum": 0,
    "description": "The number of the part. Each batch that serves the line has a part, and so"
    " have the pieces that wait. 0 for a line that was never split; a number is not used"
    " again.",
}
STATUS = s.one_of("allocated", "reserved", "waiting", "dispatched")
STATUS_OF_WHOLE = s.one_of("allocated", "reserved", "waiting", "dispatched", "in parts")
PROMISE = {
    "batchref": {"anyOf": [s.BATCHREF, {"type": "null"}], "description": "null: the line waits."},
    "eta": s.ETA
    | {"description": "The batch's ETA; null: the stock is on the shelf, or the line waits."},
}
DISPATCHED_QTY = s.count(
    "Pieces that have left, while others of the line, or part, are still promised."
)
GONE = {
    "dispatched_qty": s.count("Pieces that have left."),
    "returned": s.count("Pieces of these that came back."),
}
PARTS = s.record(
    part=PART,
    qty=s.QTY,
    status=STATUS,
    **PROMISE,
    optional={"expires_at": UNTIL, "dispatched_qty": DISPATCHED_QTY},
)
"""One part of a line that several batches serve."""

_LINE = {"orderid": s.ORDERID, "sku": s.SKU, "qty": s.QTY}
ALLOCATED = {
    **_LINE,
    "status": s.one_of("allocated", "dispatched"),
    "batchref": s.BATCHREF,
    "eta": s.ETA | {"description": "The batch's ETA; null: the stock is on the shelf."},
}
WAITING: dict[str, s.Json] = {
    **_LINE,
    "status": s.one_of("waiting"),
    "batchref": {"type": "null"},
    "eta": {"type": "null"},
}
WISHES = {
    name: s.field(name, "allocation.reserve")
    for name in ("customer", "split", "priority", "not_before", "fresh_days")
}
"""What a request may say of a line beside its quantity; left out if it says nothing."""
BESIDES = WISHES | {"expires_at": s.TIME, "dispatched_qty": DISPATCHED_QTY}
IN_PARTS = {
    **_LINE,
    "status": STATUS_OF_WHOLE,
    "parts": s.array(
        PARTS, "A part for each batch that serves the line, and one for the pieces that wait."
    ),
}


def line(*kinds: dict[str, s.Json]) -> s.Json:
    """One of these, with what the request said besides, and until when the line is held."""
    return {"anyOf": [s.record(**kind, optional=BESIDES) for kind in kinds]}
