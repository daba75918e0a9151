"""Products: what is available of a sku, what waits for it, and the order in which it serves."""

from typing import Any

from flask import Response, jsonify, request, url_for
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http import parsing
from allocation.entrypoints.api.http.parsing import Parameter
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.resources.batches import STOCK
from allocation.entrypoints.api.state import snapshot
from allocation.views import stock

_LIMIT = Parameter(
    "limit",
    "Batches on a page.",
    {"type": "integer", "minimum": 1, "maximum": stock.MOST, "default": stock.LIMIT},
)
_OPEN = Parameter(
    "open", "true: only batches with free pieces.", {"type": "boolean", "default": False}
)
_AFTER = Parameter(
    "after",
    "Where the page begins, as `next` of the page before says.",
    {"type": "string", "pattern": f"^{stock.CURSOR}$"},
    problem="must come from the `next` of an answer",
)

_STRATEGY = s.field("strategy", "allocation.choose_strategy")

resource = Resource("products")

resource.command(
    "PUT",
    "/v1/products/<sku>/strategy",
    "allocation.choose_strategy",
    "Choose the order in which a product's batches serve",
    s.Answer(
        "ChosenStrategy",
        s.record(sku=s.SKU, strategy=_STRATEGY, status=s.one_of("changed", "unchanged")),
        "The batches serve in this order",
    ),
    refusals=("unknown sku",),
)


@resource.get(
    "/v1/products/<sku>",
    "Show a product's stock",
    s.Answer(
        "Product",
        s.record(
            sku=s.SKU,
            version=s.count("Counts the decisions that changed it."),
            strategy=_STRATEGY,
            available=s.count("Free pieces of all batches together; a line needs one batch."),
            open_batches=s.count("Batches with free pieces."),
            waiting=s.record(lines=s.count("Lines that wait."), qty=s.count("Their pieces.")),
            batches=s.array(
                s.record(batchref=s.BATCHREF, **STOCK),
                "One page of its batches: first batches with free pieces, in the order in which"
                " they serve; then fully promised ones, in the same order; then empty ones, by"
                " reference.",
            ),
            next={
                "type": ["string", "null"],
                "format": "uri-reference",
                "description": "Where the next page is; null: this is the last one.",
            },
        ),
    ),
    description="How much is free, how much waits for stock, and its batches, page by page."
    " `next` leads to the next page; it is null on the last one.",
    parameters=(_LIMIT, _OPEN, _AFTER),
)
def show(sku: str) -> Response:
    limit, only_open, after = parsing.read_parameters(_LIMIT, _OPEN, _AFTER)
    with snapshot() as connection:
        product = stock.product(
            connection,
            sku,
            limit=limit,
            only_open=only_open,
            after=stock.cursor(after) if after else None,
        )
    if product is None:
        raise NotFound("No batch of this sku was ever put on the books.")
    if product["next"]:
        kept: dict[str, Any] = {
            name: request.args[name] for name in ("limit", "open") if name in request.args
        }
        product["next"] = url_for("products.show", sku=sku, after=product["next"], **kept)
    return jsonify(product)
