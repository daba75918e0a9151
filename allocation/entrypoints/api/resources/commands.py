"""Commands: the status of each, from the moment it was accepted."""

from uuid import UUID

from flask import Response, jsonify, request
from werkzeug.exceptions import NotFound

from allocation.contract import registry
from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http import intake
from allocation.entrypoints.api.http.routes import Resource

resource = Resource("commands")

_UNKNOWN = "No command was accepted under this id."


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
    description="The command is pending, succeeded, was rejected by a rule, or failed. With"
    " `Prefer: wait=N` the answer to a pending command waits for its outcome.",
    waits=True,
)
def show(command_id: str) -> Response:
    try:
        known_as = UUID(command_id)
    except ValueError:
        raise NotFound(_UNKNOWN) from None
    preferred = intake.preference(request.headers.get("Prefer", ""))
    command, waited = intake.standing(known_as, preferred.wait)
    if command is None:
        raise NotFound(_UNKNOWN)
    response = jsonify(command)
    if command["status"] == "pending":
        response.headers["Retry-After"] = "1"
    if applied := preferred.applied(waited=waited, pending=False):
        response.headers["Preference-Applied"] = applied
    return response
