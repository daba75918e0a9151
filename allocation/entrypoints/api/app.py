"""The Flask application: every resource, behind one key, with one way to say what is wrong."""

from time import perf_counter

import structlog
from flask import Flask, Response, g, request

from allocation.adapters.sql.api_keys import ApiKeys
from allocation.bootstrap import Dependencies
from allocation.entrypoints.api import pages, state
from allocation.entrypoints.api.auth import login, security, sessions
from allocation.entrypoints.api.description import openapi
from allocation.entrypoints.api.http import (
    database_state,
    metrics,
    parameters,
    parsing,
    paths,
    problems,
    tracing,
)
from allocation.entrypoints.api.http.database_state import DatabaseState
from allocation.entrypoints.api.http.load_shedding import LoadShedder
from allocation.entrypoints.api.http.metrics import Metrics
from allocation.entrypoints.api.http.rate_limit import RateLimits
from allocation.entrypoints.api.http.waiting import OutcomeWaiter
from allocation.entrypoints.api.pages import assets, error_pages
from allocation.entrypoints.api.resources.live_events import LiveEvents

log = structlog.get_logger(__name__)


def create_app(dependencies: Dependencies, session_secret: bytes | None = None) -> Flask:
    """The application; it connects to the database when a request first needs it.

    `session_secret` signs its cookies if the settings have nothing for it.
    """
    settings, engine = dependencies.settings, dependencies.engine
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = parsing.READ_AT_MOST
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's own provider
    # A path has one spelling: no redirect mends another one.
    app.url_map.merge_slashes = False
    paths.register(app)

    database = DatabaseState(engine, settings.resend_after)
    limits = RateLimits(security.rate_limit(settings))
    api = state.Api(
        dependencies=dependencies,
        database=database,
        metrics=Metrics(lambda: database.ask().backlog),
        # Half the threads may wait for outcomes; the others go on answering.
        waiter=OutcomeWaiter(engine, max(1, settings.api_threads // 2)),
        load_shedder=LoadShedder(engine, settings),
        live_events=LiveEvents(engine, settings.api_streams),
        guard=security.Guard(settings, ApiKeys(engine), limits),
        openapi=openapi.document(),
    )
    state.install(app, api)

    tracing.register(app)
    metrics.register(app, api.metrics)
    app.after_request(_log)
    problems.register(app, error_pages.answer)
    opened = openapi.open_endpoints() | assets.OPEN
    database_state.register(app, engine, opened | {"health.metrics"})
    security.register(app, api.guard, limits, opened | login.OPEN)
    sessions.register(app, sessions.secret(settings, session_secret))
    parameters.register(app)
    for resource in openapi.RESOURCES:
        app.register_blueprint(resource.blueprint)
    for blueprint in (pages.blueprint(), assets.blueprint(), login.blueprint):
        app.register_blueprint(blueprint)
    return app


def _log(response: Response) -> Response:
    log.debug(
        "answered",
        method=request.method,
        path=request.path,
        status=response.status_code,
        caller=g.caller.id if "caller" in g else None,
        ms=round((perf_counter() - g.began) * 1000, 1),
    )
    return response
