"""Whether the process lives, and whether it can do its work."""

from flask import Blueprint, Response, jsonify

from allocation.entrypoints.api.http.database_state import DatabaseState
from allocation.entrypoints.api.http.problems import Problem


def blueprint(database: DatabaseState) -> Blueprint:
    made = Blueprint("health", __name__)

    @made.get("/healthz")
    def alive() -> Response:
        return jsonify({"status": "alive"})

    @made.get("/readyz")
    def ready() -> Response:
        state = database.ask()
        if state.backlog is None:
            raise Problem(503, state.trouble, kind="not ready", headers={"Retry-After": "2"})
        return jsonify(
            {
                "status": "ready",
                "unsent": state.backlog.unsent,
                "oldest_unsent_seconds": state.backlog.oldest_unsent_seconds,
            }
        )

    return made
