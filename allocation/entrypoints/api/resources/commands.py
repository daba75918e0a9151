"""Commands: the status of each, from the moment it was accepted."""

from uuid import UUID

from flask import Response, jsonify
from werkzeug.exceptions import NotFound

from allocation.contract import registry
from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.state import snapshot
from allocation.views import progress

resource = Resource("commands")


@resource.get(
    "/v1/commands/<command_id>",
    "Show a command's status",
    s.Answer(
        "Command",
        s.record(
            id=s.uuid("The command's id."),
            command={"enum": sorted(registry.COMMANDS)},
            status=s.one_of("pending", "succeeded", "rejected", "failed"),
            outcome={
                "type": ["object", "null"],
                "description": "The outcome, with `reason` if a rule rejected the command; null"
                " while the command is pending.",
            },
            accepted_at=s.TIME,
            decided_at=s.TIME | {"type": ["string", "null"]},
        ),
    ),
    description="The command is pending, succeeded, was rejected by a rule, or failed.",
)
def show(command_id: str) -> Response:
    try:
        known_as = UUID(command_id)
    except ValueError:
        command = None
    else:
        with snapshot() as connection:
            command = progress.command(connection, known_as)
    if command is None:
        raise NotFound("No command was accepted under this id.")
    response = jsonify(command)
    if command["status"] == "pending":
        response.headers["Retry-After"] = "1"
    return response
