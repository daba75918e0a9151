"""Allocations: ask for stock for one order line or many, give it up, see an order's status."""

from flask import Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.contract import registry
from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http import intake, parsing
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.resources import bulk
from allocation.entrypoints.api.resources.lines import (
    ALLOCATED,
    IN_PARTS,
    PART,
    PARTS,
    PROMISE,
    STATUS,
    UNTIL,
    WAITING,
    line,
)
from allocation.entrypoints.api.state import snapshot
from allocation.views import lines


def _explanation() -> s.Json:
    began_with = s.record(
        id=s.uuid("The id of what began it all."),
        command={"type": ["string", "null"], "description": "null: it did not begin here."},
        body={"type": ["object", "null"]},
    )
    candidate = s.record(
        batchref={"type": "string"},
        eta={"type": ["string", "null"], "format": "date"},
        free=s.count("Pieces that were free."),
        verdict=s.text("Why it was chosen, or passed over."),
    )
    decision = s.record(
        event=s.text("The type of the event that told it."),
        sequence=s.count("The event's number."),
        time=s.TIME,
        cause=s.record(
            id=s.uuid("The id of the command that decided it."), command={"type": "string"}
        ),
        began_with=began_with,
        qty=s.count("Pieces."),
        optional={
            "part": s.count("Which part of the line, where several batches serve it."),
            "candidates": s.count("Batches with free pieces; there for a choice only."),
            "considered": s.array(candidate, "By preference; of many the first ones and the last."),
        },
    )
    return s.record(
        orderid=s.ORDERID,
        sku=s.SKU,
        status=s.one_of("allocated", "reserved", "waiting", "dispatched", "in parts", "given up"),
        decisions=s.array(decision, "Those that are kept, oldest first."),
    )


def _decided_order() -> s.Json:
    of_line = s.record(
        sku=s.SKU,
        qty=s.QTY,
        status=s.one_of("allocated", "reserved", "waiting", "dispatched", "in parts", "rejected"),
        optional={
            **PROMISE,
            "parts": s.array(PARTS, "Where several batches serve it."),
            "expires_at": UNTIL,
            "reason": s.text("Why it was rejected."),
        },
    )
    return s.record(
        orderid=s.ORDERID,
        status=s.one_of("decided"),
        all_or_nothing=s.field("all_or_nothing", "allocation.allocate_order"),
        lines=s.array(of_line, "By sku: what became of each."),
        optional={"customer": s.field("customer", "allocation.allocate_order")},
    )


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
    "Ask for stock for an order line, or for many",
    s.Answer("WaitingLine", line(WAITING, IN_PARTS), "Nothing can serve the line yet: it waits"),
    s.Answer("AllocatedLine", line(ALLOCATED, IN_PARTS), "The line is promised stock", status=201),
    refusals=("unknown sku", "reserved", "quantity differs", "line twice"),
    bulk=bulk.ANSWER,
    view=allocate,
)
resource.command(
    "DELETE",
    "/v1/allocations/<orderid>/<sku>",
    "allocation.deallocate",
    "Give up an order line",
    s.Answer(
        "DeallocatedLine",
        s.record(orderid=s.ORDERID, sku=s.SKU, status=s.one_of("deallocated")),
        "The line is given up",
    ),
    refusals=("unknown sku", "unknown order line", "dispatched"),
)
resource.command(
    "POST",
    "/v1/orders",
    "allocation.allocate_order",
    "Ask for stock for a whole order",
    s.Answer("DecidedOrder", _decided_order(), "What became of each line"),
    refusals=("sku twice", "unknown sku", "reserved", "quantity differs", "not all in stock"),
)


@resource.get(
    "/v1/allocations/<orderid>/<sku>/explanation",
    "Explain why an order line stands where it does",
    s.Answer("Explanation", _explanation()),
    description="Every decision about it that is kept: what was chosen, from what, and why.",
)
def explain(orderid: str, sku: str) -> Response:
    with snapshot() as connection:
        explanation = lines.explanation(connection, orderid, sku)
    if explanation is None:
        raise NotFound("The order has no such line.")
    return jsonify(explanation)


@resource.get(
    "/v1/allocations/<orderid>",
    "Show how an order stands",
    s.Answer(
        "Order",
        s.record(
            orderid=s.ORDERID,
            lines=s.array(
                s.record(
                    sku=s.SKU,
                    part=PART,
                    qty=s.QTY,
                    status=STATUS,
                    **PROMISE,
                    expires_at=UNTIL | {"type": ["string", "null"]},
                ),
                "By sku.",
            ),
        ),
    ),
    description="Every line: from which batch it is served, or that it waits.",
)
def show(orderid: str) -> Response:
    with snapshot() as connection:
        order = lines.order(connection, orderid)
    if order is None:
        raise NotFound("The order has no line.")
    return jsonify(order)
