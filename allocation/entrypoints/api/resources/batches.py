"""Batches: create one, change its quantity or ETA, write off pieces, look at it."""

from flask import Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api.description.schemas import (
    BATCHREF,
    ETA,
    QTY,
    SKU,
    Answer,
    count,
    field,
    one_of,
    record,
)
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.state import snapshot
from allocation.views import stock

_CHANGED_QTY = field("qty", "allocation.change_batch_quantity")
STOCK = {
    "qty": _CHANGED_QTY | {"description": "Purchased pieces."},
    "allocated": count("Pieces that lines are promised."),
    "available": count("Pieces that are free."),
    "eta": ETA,
    "best_before": field("best_before", "allocation.create_batch"),
}
"""What a batch holds."""

resource = Resource("batches")

resource.command(
    "POST",
    "/v1/batches",
    "allocation.create_batch",
    "Put stock on the books",
    Answer(
        "CreatedBatch",
        record(batchref=BATCHREF, sku=SKU, qty=QTY, eta=ETA, status=one_of("created")),
        "The batch is on the books",
        status=201,
    ),
    refusals=("batchref taken",),
)
resource.command(
    "PATCH",
    "/v1/batches/<batchref>",
    "allocation.change_batch_quantity",
    "Set what a batch holds",
    Answer(
        "ChangedBatch",
        record(batchref=BATCHREF, qty=_CHANGED_QTY, status=one_of("changed", "unchanged")),
        "The batch has this quantity",
    ),
    refusals=("unknown batchref",),
)
resource.command(
    "PUT",
    "/v1/batches/<batchref>/eta",
    "allocation.change_batch_eta",
    "Set when a batch arrives",
    Answer(
        "BatchOnAnotherDay",
        record(batchref=BATCHREF, eta=ETA, status=one_of("changed", "unchanged")),
        "The batch arrives on this day",
    ),
    refusals=("unknown batchref",),
)
resource.command(
    "POST",
    "/v1/batches/<batchref>/write-offs",
    "allocation.write_off",
    "Take pieces off a batch",
    Answer(
        "WrittenOffPieces",
        record(
            batchref=BATCHREF,
            qty=field("qty", "allocation.write_off"),
            reason=field("reason", "allocation.write_off"),
            status=one_of("written off"),
            left=count("Pieces that the batch has now."),
        ),
        "The pieces are off the books",
    ),
    refusals=("unknown batchref", "quantity too large"),
)


@resource.get(
    "/v1/batches/<batchref>",
    "Show a batch",
    Answer("Batch", record(sku=SKU, batchref=BATCHREF, **STOCK)),
    description="What it holds, what of it is promised, and when it arrives."
    " Used-up batches are shown, too.",
)
def show(batchref: str) -> Response:
    with snapshot() as connection:
        batch = stock.batch(connection, batchref)
    if batch is None:
        raise NotFound("There is no batch with this reference.")
    return jsonify(batch)
