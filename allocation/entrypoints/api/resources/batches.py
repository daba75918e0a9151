"""Batches: put stock on the books, change its quantity and its day, write off, look at it."""

from flask import Blueprint, Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api.http import intake, parsing
from allocation.entrypoints.api.http.reading import snapshot
from allocation.views import stock


def blueprint() -> Blueprint:
    made = Blueprint("batches", __name__)
    made.post("/v1/batches")(create)
    made.patch("/v1/batches/<batchref>")(change_quantity)
    made.put("/v1/batches/<batchref>/eta")(change_eta)
    made.post("/v1/batches/<batchref>/write-offs")(write_off)
    made.get("/v1/batches/<batchref>")(show)
    return made


def create() -> Response:
    return intake.answer(parsing.command("allocation.create_batch"))


def change_quantity(batchref: str) -> Response:
    command = parsing.command("allocation.change_batch_quantity", batchref=batchref)
    return intake.answer(command)


def change_eta(batchref: str) -> Response:
    command = parsing.command("allocation.change_batch_eta", batchref=batchref)
    return intake.answer(command)


def write_off(batchref: str) -> Response:
    return intake.answer(parsing.command("allocation.write_off", batchref=batchref))


def show(batchref: str) -> Response:
    with snapshot() as connection:
        batch = stock.batch(connection, batchref)
    if batch is None:
        raise NotFound("There is no batch with this reference.")
    return jsonify(batch)
