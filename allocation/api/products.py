"""Products: what is available of a sku, what waits for it, and the order in which it serves."""

from flask import Blueprint, Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.api import accepting, bodies
from allocation.api.reading import snapshot
from allocation.views import stock


def blueprint() -> Blueprint:
    made = Blueprint("products", __name__)
    made.get("/v1/products/<sku>")(show)
    made.put("/v1/products/<sku>/strategy")(choose_strategy)
    return made


def choose_strategy(sku: str) -> Response:
    return accepting.answer(bodies.command("allocation.choose_strategy", sku=sku))


def show(sku: str) -> Response:
    with snapshot() as connection:
        product = stock.product(connection, sku)
    if product is None:
        raise NotFound("No batch of this sku was ever put on the books.")
    return jsonify(product)
