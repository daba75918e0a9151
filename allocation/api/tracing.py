"""Each request's part in a trace, and what its log lines are named by."""

import structlog
from flask import Flask, g, request

from allocation import trace_context


def register(app: Flask) -> None:
    """Read the trace context of every request of `app`; what is malformed is ignored."""

    @app.before_request
    def begin() -> None:
        structlog.contextvars.clear_contextvars()
        g.traceparent = trace_context.accepted(request.headers.get("traceparent"))
