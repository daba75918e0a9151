"""Commands: how each one stands, from the moment it was accepted."""

from uuid import UUID

from flask import Blueprint, Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api.http.reading import snapshot
from allocation.views import progress


def blueprint() -> Blueprint:
    made = Blueprint("commands", __name__)
    made.get("/v1/commands/<command_id>")(show)
    return made


def show(command_id: str) -> Response:
    command = None
    known_as = _uuid(command_id)
    if known_as is not None:
        with snapshot() as connection:
            command = progress.command(connection, known_as)
    if command is None:
        raise NotFound("No command was accepted under this id.")
    response = jsonify(command)
    if command["status"] == "pending":
        response.headers["Retry-After"] = "1"
    return response


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
