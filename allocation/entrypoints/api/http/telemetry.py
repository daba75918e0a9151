"""What the API reports of its requests: metrics, a span and a log line of each."""

import os
from collections.abc import Callable, Iterator
from time import perf_counter

import structlog
from flask import Flask, Response, g, request
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest, values
from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.multiprocess import MultiProcessCollector
from prometheus_client.registry import Collector

from allocation.messaging.telemetry import trace_context, tracing
from allocation.messaging.telemetry.metrics_server import SHARED_FOLDER
from allocation.views.progress import Backlog

log = structlog.get_logger(__name__)

_METHODS = {"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}


class Metrics:
    """The metrics of this process, or of all where they share a folder. No label holds an id.

    `backlog` asks the database at each scrape; None means that it gave no answer.
    """

    def __init__(self, backlog: Callable[[], Backlog | None]) -> None:
        own = CollectorRegistry()
        if SHARED_FOLDER in os.environ:
            values.ValueClass = values.MultiProcessValue()
        self._requests = Counter(
            "allocation_http_requests",
            "Requests answered.",
            ["method", "route", "status"],
            registry=own,
        )
        self._seconds = Histogram(
            "allocation_http_request_seconds",
            "From a request's arrival to its response, with the wait that Prefer asks for.",
            ["method", "route"],
            registry=own,
        )
        self._accepting = Histogram(
            "allocation_accept_seconds",
            "Duration of the transaction that accepts a command.",
            ["command"],
            buckets=(0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
            registry=own,
        )
        self._scraped = own
        if SHARED_FOLDER in os.environ:
            self._scraped = CollectorRegistry()
            MultiProcessCollector(self._scraped)
        self._scraped.register(_BacklogCollector(backlog))

    def accepted(self, command: str, seconds: float) -> None:
        self._accepting.labels(command).observe(seconds)

    def answered(self, route: str, status: int, seconds: float) -> None:
        # A method is any word that a caller makes up.
        method = request.method if request.method in _METHODS else "other"
        self._requests.labels(method, route, f"{status // 100}xx").inc()
        self._seconds.labels(method, route).observe(seconds)

    def text(self) -> bytes:
        return generate_latest(self._scraped)


class _BacklogCollector(Collector):
    def __init__(self, backlog: Callable[[], Backlog | None]) -> None:
        self._backlog = backlog

    def collect(self) -> Iterator[Metric]:
        found = self._backlog()
        gauges = [("database_up", "1 if the database responds, else 0.", 1.0 if found else 0.0)]
        if found is not None:
            unsent_age = "Age of the oldest unpublished outbox row; 0 if there are none."
            pending_age = "Age of the oldest pending command; 0 if there are none."
            overdue = "Commands and follow-ups pending for longer than ALLOCATION_RESEND_AFTER."
            gauges += [
                (
                    "outbox_unsent",
                    "Outbox rows that are not published yet.",
                    found.unsent,
                ),
                ("outbox_oldest_unsent_seconds", unsent_age, found.oldest_unsent_seconds),
                ("commands_pending", "Commands of clients without an outcome.", found.pending),
                ("commands_oldest_pending_seconds", pending_age, found.oldest_pending_seconds),
                (
                    "follow_ups_pending",
                    "Follow-up commands without an outcome.",
                    found.follow_ups,
                ),
                ("commands_overdue", overdue, found.overdue),
                ("lines_waiting", "Order lines that wait for stock.", found.waiting_lines),
            ]
        for name, help_text, value in gauges:
            yield GaugeMetricFamily(f"allocation_{name}", help_text, value)

    def describe(self) -> Iterator[Metric]:
        # Without it the registry would ask the database when this is registered.
        return iter(())


def register(app: Flask, metrics: Metrics) -> None:
    """Observe every request of `app`; metrics count it under its route's template.

    A malformed trace context is ignored. Requests for resources are spans, if spans are made.
    """

    @app.before_request
    def begin() -> None:
        g.began = perf_counter()
        structlog.contextvars.clear_contextvars()
        g.traceparent = trace_context.accepted(request.headers.get("traceparent"))
        if request.path.startswith("/v1/"):
            g.span = _begin_span()
            g.traceparent = g.span.traceparent

    @app.after_request
    def end(response: Response) -> Response:
        seconds, status = perf_counter() - g.began, response.status_code
        log.debug(
            "answered",
            method=request.method,
            path=request.path,
            status=status,
            caller=g.caller.id if "caller" in g else None,
            ms=round(seconds * 1000, 1),
        )
        metrics.answered(request.url_rule.rule if request.url_rule else "none", status, seconds)
        if "span" in g:
            failed = str(status) if status >= 500 else None
            g.pop("span").end(failed, {"http.response.status_code": status})
        return response


def _begin_span() -> tracing.Span:
    about = {
        "http.request.method": request.method,
        "url.path": request.path,
        "url.scheme": request.scheme,
    }
    name = request.method
    if request.url_rule is not None:
        about["http.route"] = request.url_rule.rule
        name += f" {request.url_rule.rule}"
    return tracing.begin(name, tracing.SpanKind.SERVER, g.traceparent, about)
