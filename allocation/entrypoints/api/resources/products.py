"""Products: what is available of a sku, what waits for it, and by which rules it serves."""

from typing import Any

from flask import Response, jsonify, request, url_for
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http import parsing
from allocation.entrypoints.api.http.parsing import Parameter
from allocation.entrypoints.api.http.preconditions import with_etag
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.resources.batches import STOCK
from allocation.entrypoints.api.state import snapshot, today
from allocation.views import stock

_LIMIT = Parameter(
    "limit",
    "Number of batches on a page.",
    {"type": "integer", "minimum": 1, "maximum": stock.MOST, "default": stock.LIMIT},
)
_OPEN = Parameter(
    "open", "true: only usable batches with free pieces.", {"type": "boolean", "default": False}
)
_AFTER = Parameter(
    "after",
    "The start of the page, from the `next` of the previous page.",
    {"type": "string", "pattern": f"^{stock.CURSOR}$"},
    problem="must come from the `next` of a response",
)

_STRATEGY = s.field("strategy", "allocation.choose_strategy")
_RULES = {name: s.field(name, "allocation.choose_strategy") for name in ("waiting", "improve")}


def _some_stock(which: str, qty: str) -> s.Json:
    return s.record(batches=s.count(f"Number of {which}."), qty=s.count(qty))


resource = Resource("products")

resource.command(
    "POST",
    "/v1/products",
    "allocation.create_product",
    "Make a product known before its first batch",
    s.Answer(
        "KnownProduct",
        s.record(
            sku=s.SKU, status=s.one_of("unchanged"), optional={"strategy": _STRATEGY, **_RULES}
        ),
        "The product is known already, with this strategy",
    ),
    s.Answer(
        "CreatedProduct",
        s.record(sku=s.SKU, status=s.one_of("created"), optional={"strategy": _STRATEGY, **_RULES}),
        "The product is known; its lines wait for a batch",
        status=201,
    ),
    refusals=("product known",),
)
resource.command(
    "PUT",
    "/v1/products/<sku>/strategy",
    "allocation.choose_strategy",
    "Choose the order in which a product's batches serve its lines",
    s.Answer(
        "ChosenStrategy",
        s.record(
            sku=s.SKU,
            strategy=_STRATEGY,
            status=s.one_of("changed", "unchanged"),
            optional=_RULES,
        ),
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
            version=s.count("Number of decisions that changed the product."),
            strategy=_STRATEGY,
            waiting_rule=_RULES["waiting"],
            improve=_RULES["improve"],
            available=s.count(
                "Free pieces of all usable batches together. One batch serves a line, unless the"
                " line may be split."
            ),
            open_batches=s.count("Number of usable batches with free pieces."),
            overdue=_some_stock(
                "overdue batches among them", "Their free pieces, which `available` counts, too."
            ),
            unusable=_some_stock(
                "batches with pieces that are blocked, expired, or expire before they arrive",
                "Their pieces, which `available` does not count.",
            ),
            waiting=s.record(
                lines=s.count("Number of waiting lines."),
                qty=s.count("Number of pieces that the waiting lines need."),
            ),
            batches=s.array(
                s.record(batchref=s.BATCHREF, **STOCK),
                "One page of the batches: first usable batches with free pieces, in the order in"
                " which they serve, overdue ones last; then fully promised and unusable batches, in"
                " the same order; then empty batches, by reference.",
            ),
            next={
                "type": ["string", "null"],
                "format": "uri-reference",
                "description": "The URL of the next page; null: this is the last page.",
            },
        ),
    ),
    description="The product's free pieces, its waiting lines, and its batches page by page."
    " `next` is the URL of the next page; it is null on the last page.",
    parameters=(_LIMIT, _OPEN, _AFTER),
    has_etag=True,
)
def show(sku: str) -> Response:
    limit, only_open, after = parsing.read_parameters(_LIMIT, _OPEN, _AFTER)
    with snapshot() as connection:
        product = stock.product(
            connection,
            sku,
            today(connection),
            limit=limit,
            only_open=only_open,
            after=stock.cursor(after) if after else None,
        )
    if product is None:
        raise NotFound("There is no product with this sku.")
    if product["next"]:
        kept: dict[str, Any] = {
            name: request.args[name] for name in ("limit", "open") if name in request.args
        }
        product["next"] = url_for("products.show", sku=sku, after=product["next"], **kept)
    version = product.pop("strategy_version")
    return with_etag(jsonify(product), version)
