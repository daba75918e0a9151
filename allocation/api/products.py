"""Products: what is available of a sku, and what waits for it."""

from flask import Blueprint, Response, jsonify
from werkzeug.exceptions import NotFound

from allocation import views
from allocation.api import bodies
from allocation.api.reading import snapshot


def blueprint() -> Blueprint:
    made = Blueprint("products", __name__)
    made.get("/v1/products/<sku>")(show)
    return made


def show(sku: str) -> Response:
    bodies.check_ids("allocation.allocate", sku=sku)
    with snapshot() as connection:
        product = views.product(connection, sku)
    if product is None:
        raise NotFound("No batch of this sku was ever put on the books.")
    return jsonify(product)
