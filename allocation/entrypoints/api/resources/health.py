"""For monitoring: whether the process lives, whether it can work, and its metrics."""

from flask import Response, jsonify
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4

from allocation.entrypoints.api import state
from allocation.entrypoints.api.description import schemas as s
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.http.routes import Resource

resource = Resource("health")


@resource.get(
    "/healthz",
    "Check that the process is alive",
    s.Answer("Alive", s.record(status=s.one_of("alive"))),
    is_open=True,
)
def alive() -> Response:
    return jsonify({"status": "alive"})


@resource.get(
    "/readyz",
    "Check that the service is ready",
    s.Answer(
        "Ready",
        s.record(
            status=s.one_of("ready"),
            unsent=s.count("Outbox rows that are not published yet."),
            oldest_unsent_seconds={
                "type": "number",
                "minimum": 0,
                "description": "Age of the oldest of these rows; 0 if there are none.",
            },
        ),
    ),
    is_open=True,
    is_probe=True,
)
def ready() -> Response:
    database = state.current().database.ask()
    if database.backlog is None:
        raise Problem("not ready", database.trouble, headers={"Retry-After": "2"})
    return jsonify(
        {
            "status": "ready",
            "unsent": database.backlog.unsent,
            "oldest_unsent_seconds": database.backlog.oldest_unsent_seconds,
        }
    )


@resource.get("/metrics", "Show the metrics, for Prometheus", s.TEXT, content="text/plain")
def metrics() -> Response:
    return Response(state.current().metrics.text(), content_type=CONTENT_TYPE_PLAIN_0_0_4)
