"""Allocations: ask for stock for order lines, change, dispatch and return them, look at them."""

from flask import Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.contract import registry
from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http import intake, parsing
from allocation.entrypoints.api.http.preconditions import with_etag
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.resources import bulk
from allocation.entrypoints.api.resources.lines import (
    ALLOCATED,
    BESIDES,
    GONE,
    IN_PARTS,
    PART,
    PARTS,
    PROMISE,
    STATUS,
    STATUS_OF_WHOLE,
    UNTIL,
    WAITING,
    line,
)
from allocation.entrypoints.api.state import snapshot
from allocation.views import lines


def _explanation() -> s.Json:
    began_with = s.record(
        id=s.uuid("The id of the first command or event in the chain of causes."),
        command={
            "type": ["string", "null"],
            "description": "null: the chain began in another service.",
        },
        body={"type": ["object", "null"]},
    )
    candidate = s.record(
        batchref={"type": "string"},
        eta={"type": ["string", "null"], "format": "date"},
        free=s.count("Pieces that were free."),
        verdict=s.text("Why the batch was chosen or passed over."),
    )
    decision = s.record(
        event=s.text("The type of the event that recorded it."),
        sequence=s.count("The event's number."),
        time=s.TIME,
        cause=s.record(
            id=s.uuid("The id of the command that decided it."), command={"type": "string"}
        ),
        began_with=began_with,
        optional={
            "qty": s.count("Number of pieces."),
            "part": s.count("The number of the part, if several batches serve the line."),
            "candidates": s.count("Number of batches with free pieces; present for a choice only."),
            "considered": s.array(
                candidate,
                "The batches in order of preference; if there are"
                " many, the first ones and the last.",
            ),
        },
    )
    return s.record(
        orderid=s.ORDERID,
        sku=s.SKU,
        status=s.one_of("allocated", "reserved", "waiting", "dispatched", "in parts", "given up"),
        decisions=s.array(decision, "The decisions that are still stored, oldest first."),
    )


def _decided_order() -> s.Json:
    of_line = s.record(
        sku=s.SKU,
        qty=s.QTY,
        status=s.one_of("allocated", "reserved", "waiting", "dispatched", "in parts", "rejected"),
        optional={
            **PROMISE,
            "parts": s.array(PARTS, "The parts, if several batches serve the line."),
            **BESIDES,
            "reason": s.text("Why it was rejected."),
        },
    )
    return s.record(
        orderid=s.ORDERID,
        status=s.one_of("decided"),
        all_or_nothing=s.field("all_or_nothing", "allocation.allocate_order"),
        lines=s.array(of_line, "The outcome of each line, sorted by sku."),
        optional={"customer": s.field("customer", "allocation.allocate_order")},
    )


def _changed_line() -> s.Json:
    of_priority = s.record(
        orderid=s.ORDERID,
        sku=s.SKU,
        priority=BESIDES["priority"],
        status=s.one_of("changed", "unchanged"),
    )
    kinds = (ALLOCATED | {"status": STATUS}, WAITING, IN_PARTS)
    return {"anyOf": [*(s.record(**kind, optional=BESIDES) for kind in kinds), of_priority]}


def _dispatched() -> s.Json:
    left_behind = {
        "qty": s.count("Pieces that left now, if others are left."),
        "left": s.count("Pieces of the line that have not left, if there are any."),
    }
    common = {"orderid": s.ORDERID, "sku": s.SKU, "status": s.one_of("dispatched")}
    part = s.record(part=PART, batchref=s.BATCHREF, qty=s.QTY)
    parts = s.array(part, "What left, by batch.")
    return {
        "anyOf": [
            s.record(**common, batchref=s.BATCHREF, optional=left_behind),
            s.record(
                **common,
                parts=parts,
                optional={**left_behind, "batchref": {"type": ["string", "null"]}},
            ),
        ]
    }


_STANDING = {
    "status": STATUS,
    **PROMISE,
    "expires_at": UNTIL | {"type": ["string", "null"]},
    **GONE,
}
_WISHED = {name: BESIDES[name] for name in ("priority", "not_before", "fresh_days")}

resource = Resource("allocations")


def allocate() -> Response:
    body = parsing.read_body()
    fields = registry.schema("allocation.allocate")["properties"]
    # A body is one of many lines if it says so, or has no field of a single one.
    if isinstance(body, dict) and ("lines" in body or not body.keys() & fields.keys()):
        return bulk.answer(body)
    return intake.answer(parsing.parse("allocation.allocate", body))


resource.command(
    "POST",
    "/v1/allocations",
    "allocation.allocate",
    "Allocate stock to an order line, or to many",
    s.Answer(
        "WaitingLine", line(WAITING, IN_PARTS), "No batch can serve the line yet, so it waits"
    ),
    s.Answer(
        "AllocatedLine", line(ALLOCATED, IN_PARTS), "Stock was allocated to the line", status=201
    ),
    refusals=("unknown sku", "reserved", "quantity differs", "line twice"),
    bulk=bulk.ANSWER,
    view=allocate,
)
resource.command(
    "DELETE",
    "/v1/allocations/<orderid>/<sku>",
    "allocation.deallocate",
    "Cancel an order line",
    s.Answer(
        "DeallocatedLine",
        s.record(orderid=s.ORDERID, sku=s.SKU, status=s.one_of("deallocated")),
        "The line was cancelled",
    ),
    refusals=("unknown sku", "unknown order line", "dispatched"),
)
resource.command(
    "PATCH",
    "/v1/allocations/<orderid>/<sku>",
    ("allocation.change_line_quantity", "allocation.change_priority"),
    "Change the quantity or the priority of an order line",
    s.Answer("ChangedLine", _changed_line(), "The line has this quantity, or this priority"),
    refusals=("unknown sku", "unknown order line", "dispatched", "not enough stock"),
)
resource.command(
    "POST",
    "/v1/allocations/<orderid>/<sku>/dispatches",
    "allocation.dispatch",
    "Record that goods of an order line were shipped",
    s.Answer("DispatchedPieces", _dispatched(), "The goods left the books"),
    refusals=(
        "unknown sku",
        "unknown order line",
        "not allocated",
        "another batch",
        "not arrived",
        "blocked",
        "expired",
        "quantity too large",
    ),
)
resource.command(
    "POST",
    "/v1/allocations/<orderid>/<sku>/returns",
    "allocation.return_goods",
    "Take shipped goods of an order line back",
    s.Answer(
        "ReturnedPieces",
        s.record(
            orderid=s.ORDERID,
            sku=s.SKU,
            qty=s.QTY,
            batchref={
                "anyOf": [s.BATCHREF, {"type": "null"}],
                "description": "The batch that has them now; null: they are not usable.",
            },
            status=s.one_of("returned"),
            optional={
                name: s.field(name, "allocation.return_goods") for name in ("usable", "reason")
            },
        ),
        "The pieces are in the batch again, or were recorded as not usable",
    ),
    refusals=("unknown sku", "unknown order line", "batchref taken", "quantity too large"),
)
resource.command(
    "POST",
    "/v1/orders",
    "allocation.allocate_order",
    "Allocate or reserve stock for a whole order",
    s.Answer("DecidedOrder", _decided_order(), "The outcome of each line"),
    refusals=("sku twice", "unknown sku", "reserved", "quantity differs", "not all in stock"),
)
resource.command(
    "DELETE",
    "/v1/orders/<orderid>",
    "allocation.cancel_order",
    "Cancel a whole order",
    s.Answer(
        "CancelledOrder",
        s.record(
            orderid=s.ORDERID,
            status=s.one_of("cancelled"),
            lines=s.count("Number of lines of which all that has not left was given up."),
            dispatched=s.count("Number of lines of which goods have left; these stay."),
        ),
        "Every line was given up, except goods that have left",
    ),
    refusals=("unknown order", "dispatched"),
)


@resource.get(
    "/v1/allocations/<orderid>/<sku>/explanation",
    "Explain the decisions about an order line",
    s.Answer("Explanation", _explanation()),
    description="Every stored decision about the line: the batch that was chosen, the batches"
    " that were considered, and why.",
)
def explain(orderid: str, sku: str) -> Response:
    with snapshot() as connection:
        explanation = lines.explanation(connection, orderid, sku)
    if explanation is None:
        raise NotFound("The order has no such line.")
    return jsonify(explanation)


@resource.get(
    "/v1/allocations/<orderid>/<sku>",
    "Show an order line",
    s.Answer(
        "Line",
        s.record(
            orderid=s.ORDERID,
            sku=s.SKU,
            qty=s.QTY,
            status=STATUS_OF_WHOLE,
            customer=BESIDES["customer"],
            split=BESIDES["split"],
            **_WISHED,
            **GONE,
            parts=s.array(
                s.record(part=PART, qty=s.QTY, **_STANDING),
                "A part for each batch that serves the line, for what left of it, and for the"
                " pieces that wait; mostly one.",
            ),
        ),
    ),
    description="The line as a whole and its parts. `ETag` changes with its quantity, priority,"
    " batches and status.",
    has_etag=True,
)
def show_line(orderid: str, sku: str) -> Response:
    with snapshot() as connection:
        line = lines.line(connection, orderid, sku)
    if line is None:
        raise NotFound("The order has no such line.")
    version = line.pop("version")
    return with_etag(jsonify(line), version)


@resource.get(
    "/v1/allocations/<orderid>",
    "Show an order's lines and their status",
    s.Answer(
        "Order",
        s.record(
            orderid=s.ORDERID,
            lines=s.array(
                s.record(
                    sku=s.SKU,
                    part=PART,
                    qty=s.QTY,
                    **_STANDING,
                    **_WISHED,
                ),
                "The order's lines, sorted by sku.",
            ),
        ),
    ),
    description="Every line with its status and, unless it waits, the batch that serves it.",
)
def show(orderid: str) -> Response:
    with snapshot() as connection:
        order = lines.order(connection, orderid)
    if order is None:
        raise NotFound("The order has no line.")
    return jsonify(order)
