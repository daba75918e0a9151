"""Batches: create one, change its quantity or days, block it, look at it."""

from flask import Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http.preconditions import with_etag
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.state import snapshot, today
from allocation.views import stock

_CHANGED_QTY = s.field("qty", "allocation.change_batch_quantity")
_BEST_BEFORE = s.field("best_before", "allocation.create_batch")
STOCK = {
    "qty": _CHANGED_QTY | {"description": "Purchased pieces."},
    "allocated": s.count("Pieces that are allocated or reserved."),
    "available": s.count("Free pieces that may serve lines: 0 if the batch is not usable."),
    "eta": s.ETA,
    "best_before": _BEST_BEFORE,
    "blocked": {
        "type": ["string", "null"],
        "description": "Why the batch is blocked; null: it is not blocked.",
    },
    "expired": s.flag("Whether its best-before day has passed."),
    "overdue": s.flag("Whether its ETA has passed without arrival: it serves after all others."),
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
        s.record(
            batchref=s.BATCHREF,
            sku=s.SKU,
            qty=s.QTY,
            eta=s.ETA,
            status=s.one_of("created"),
            optional={"best_before": _BEST_BEFORE},
        ),
        "The batch was added",
        status=201,
    ),
    refusals=("batchref taken", "expires before arrival"),
)
resource.command(
    "PATCH",
    "/v1/batches/<batchref>",
    ("allocation.change_batch_quantity", "allocation.change_best_before"),
    "Change a batch's quantity or its best-before day",
    s.Answer(
        "ChangedBatch",
        {
            "anyOf": [
                s.record(batchref=s.BATCHREF, **changed, status=s.one_of("changed", "unchanged"))
                for changed in ({"qty": _CHANGED_QTY}, {"best_before": _BEST_BEFORE})
            ]
        },
        "The batch has this quantity, or is good until this day",
    ),
    refusals=("unknown batchref", "expires before arrival"),
)
resource.command(
    "POST",
    "/v1/batches/<batchref>/receipts",
    "allocation.receive",
    "Add pieces to a batch",
    s.Answer(
        "ReceivedPieces",
        s.record(
            batchref=s.BATCHREF,
            qty=_CHANGED_QTY | {"description": "Pieces that the batch has now."},
            status=s.one_of("received"),
        ),
        "The pieces were added to the batch",
    ),
    refusals=("unknown batchref",),
)
resource.command(
    "PUT",
    "/v1/batches/<batchref>/block",
    "allocation.block_batch",
    "Block a batch",
    s.Answer(
        "BlockedBatch",
        s.record(
            batchref=s.BATCHREF,
            reason=s.field("reason", "allocation.block_batch"),
            status=s.one_of("blocked", "unchanged"),
        ),
        "The batch serves no line; the lines that it served moved, or wait",
    ),
    refusals=("unknown batchref",),
)
resource.command(
    "DELETE",
    "/v1/batches/<batchref>/block",
    "allocation.unblock_batch",
    "Unblock a batch",
    s.Answer(
        "UnblockedBatch",
        s.record(batchref=s.BATCHREF, status=s.one_of("unblocked", "unchanged")),
        "The batch serves lines again",
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
    description="The batch's quantity, its promised and its free pieces, its days, and whether it"
    " is usable today. Used-up batches are shown, too.",
    has_etag=True,
)
def show(batchref: str) -> Response:
    with snapshot() as connection:
        batch = stock.batch(connection, batchref, today(connection))
    if batch is None:
        raise NotFound("There is no batch with this reference.")
    version = batch.pop("version")
    return with_etag(jsonify(batch), version)
