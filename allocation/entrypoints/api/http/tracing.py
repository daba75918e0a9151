"""Each request's part in a trace, and what its log lines are named by."""

import structlog
from flask import Flask, Response, g, request

from allocation.messaging.telemetry import trace_context, tracing


def register(app: Flask) -> None:
    """Read the trace context of every request of `app`; what is malformed is ignored.

    Where spans are made, each request for a resource is one.
    """

    @app.before_request
    def begin() -> None:
        structlog.contextvars.clear_contextvars()
        g.traceparent = trace_context.accepted(request.headers.get("traceparent"))
        if not request.path.startswith("/v1/"):
            return
        route = request.url_rule.rule if request.url_rule else None
        about = {
            "http.request.method": request.method,
            "url.path": request.path,
            "url.scheme": request.scheme,
        }
        if route is not None:
            about["http.route"] = route
        name = f"{request.method} {route}" if route else request.method
        g.span = tracing.begin(name, tracing.SpanKind.SERVER, g.traceparent, about)
        g.traceparent = g.span.traceparent

    @app.after_request
    def end(response: Response) -> Response:
        if "span" in g:
            failed = str(response.status_code) if response.status_code >= 500 else None
            g.pop("span").end(failed, {"http.response.status_code": response.status_code})
        return response
