"""Allocations: ask for stock for one order line or many, give it up, see how an order stands."""

from flask import Blueprint, Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api.http import intake, parsing
from allocation.entrypoints.api.http.reading import snapshot
from allocation.entrypoints.api.resources import bulk
from allocation.views import lines


def blueprint() -> Blueprint:
    made = Blueprint("allocations", __name__)
    made.post("/v1/allocations")(allocate)
    made.post("/v1/orders")(allocate_order)
    made.delete("/v1/allocations/<orderid>/<sku>")(deallocate)
    made.get("/v1/allocations/<orderid>")(show)
    made.get("/v1/allocations/<orderid>/<sku>/explanation")(explain)
    return made


def allocate() -> Response:
    body = parsing.read()
    if bulk.asked(body):
        return bulk.answer(body)
    return intake.answer(parsing.parse("allocation.allocate", body))


def allocate_order() -> Response:
    return intake.answer(parsing.command("allocation.allocate_order"))


def deallocate(orderid: str, sku: str) -> Response:
    command = parsing.command_from_path("allocation.deallocate", orderid=orderid, sku=sku)
    return intake.answer(command)


def explain(orderid: str, sku: str) -> Response:
    with snapshot() as connection:
        explanation = lines.explanation(connection, orderid, sku)
    if explanation is None:
        raise NotFound("The order has no such line.")
    return jsonify(explanation)


def show(orderid: str) -> Response:
    with snapshot() as connection:
        order = lines.order(connection, orderid)
    if order is None:
        raise NotFound("The order has no line.")
    return jsonify(order)
