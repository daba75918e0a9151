"""Batches: create one, change its quantity or ETA, write off pieces, look at it."""

from flask import Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.state import snapshot
from allocation.views import stock

_CHANGED_QTY = s.field("qty", "allocation.change_batch_quantity")
STOCK = {
    "qty": _CHANGED_QTY | {"description": "Purchased pieces."},
    "allocated": s.count("Pieces that are allocated or reserved."),
    "available": s.count("Free pieces."),
    "eta": s.ETA,
    "best_before": s.field("best_before", "allocation.create_batch"),
}
"""What a batch holds."""

resource = Resource("batches")

resource.command(
    "POST",
    "/v1/batches",
    "allocation.create_batch",
    "Add a batch of stock",
    s.Answer(
        "CreatedBatch",
        s.record(batchref=s.BATCHREF, sku=s.SKU, qty=s.QTY, eta=s.ETA, status=s.one_of("created")),
        "The batch was added",
        status=201,
    ),
    refusals=("batchref taken",),
)
resource.command(
    "PATCH",
    "/v1/batches/<batchref>",
    "allocation.change_batch_quantity",
    "Change a batch's quantity",
    s.Answer(
        "ChangedBatch",
        s.record(batchref=s.BATCHREF, qty=_CHANGED_QTY, status=s.one_of("changed", "unchanged")),
        "The batch has this quantity",
    ),
    refusals=("unknown batchref",),
)
resource.command(
    "PUT",
    "/v1/batches/<batchref>/eta",
    "allocation.change_batch_eta",
    "Change a batch's ETA",
    s.Answer(
        "BatchOnAnotherDay",
        s.record(batchref=s.BATCHREF, eta=s.ETA, status=s.one_of("changed", "unchanged")),
        "The batch arrives on this day",
    ),
    refusals=("unknown batchref",),
)
resource.command(
    "POST",
    "/v1/batches/<batchref>/write-offs",
    "allocation.write_off",
    "Write off pieces of a batch",
    s.Answer(
        "WrittenOffPieces",
        s.record(
            batchref=s.BATCHREF,
            qty=s.field("qty", "allocation.write_off"),
            reason=s.field("reason", "allocation.write_off"),
            status=s.one_of("written off"),
            left=s.count("Pieces that the batch has now."),
        ),
        "The pieces were removed from the batch",
    ),
    refusals=("unknown batchref", "quantity too large"),
)


@resource.get(
    "/v1/batches/<batchref>",
    "Show a batch",
    s.Answer("Batch", s.record(sku=s.SKU, batchref=s.BATCHREF, **STOCK)),
    description="The batch's quantity, its promised and its free pieces, and its ETA. Used-up"
    " batches are shown, too.",
)
def show(batchref: str) -> Response:
    with snapshot() as connection:
        batch = stock.batch(connection, batchref)
    if batch is None:
        raise NotFound("There is no batch with this reference.")
    return jsonify(batch)
