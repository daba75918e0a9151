"""The Flask application: every resource, behind one key, with one way to say what is wrong."""

from time import perf_counter

import structlog
from flask import Flask, Response, g, request

from allocation import bootstrap
from allocation.adapters.sql.api_keys import ApiKeys
from allocation.entrypoints.api import pages
from allocation.entrypoints.api.auth import login, security, sessions
from allocation.entrypoints.api.description import docs
from allocation.entrypoints.api.http import (
    database_state,
    parameters,
    parsing,
    paths,
    problems,
    tracing,
)
from allocation.entrypoints.api.http.database_state import DatabaseState
from allocation.entrypoints.api.http.load_shedding import Pressure
from allocation.entrypoints.api.http.rate_limit import Limits
from allocation.entrypoints.api.http.waiting import OutcomeWaiter
from allocation.entrypoints.api.pages import assets, error_pages
from allocation.entrypoints.api.resources import (
    allocations,
    batches,
    commands,
    health,
    metrics,
    products,
    reservations,
    stream,
)
from allocation.entrypoints.api.resources.live_events import LiveEvents

log = structlog.get_logger(__name__)


def create_app(session_secret: bytes | None = None) -> Flask:
    """The application on the configured database; it connects when a request first needs it.

    `session_secret` signs its cookies where the settings have nothing for it.
    """
    settings = bootstrap.settings()
    app = Flask(__name__, static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = parsing.READ_AT_MOST
    app.json.sort_keys = False  # type: ignore[attr-defined]  # of Flask's own provider
    # A path has one spelling: no redirect mends another one.
    app.url_map.merge_slashes = False
    paths.register(app)

    database = DatabaseState()
    figures = metrics.Metrics(lambda: database.ask().backlog)
    app.extensions["allocation.metrics"] = figures
    # Half the threads may wait for outcomes; the others go on answering.
    app.extensions["allocation.waiter"] = OutcomeWaiter(max(1, settings.api_threads // 2))

    app.extensions["allocation.events"] = events = LiveEvents(settings.api_streams)
    app.extensions["allocation.pressure"] = Pressure(settings)

    tracing.register(app)
    metrics.register(app, figures)
    app.after_request(_log)
    problems.register(app, error_pages.answer)
    opened = security.OPEN | assets.OPEN | {"metrics.show"}
    database_state.register(app, opened)
    keys = ApiKeys(bootstrap.engine(settings.database_url))
    limits = Limits(security.rate_limit(settings))
    guard = security.Guard(settings, keys, limits)
    security.register(app, guard, limits, security.OPEN | login.OPEN | assets.OPEN)
    sessions.register(app, sessions.secret(settings, session_secret))
    parameters.register(app)
    for blueprint in (
        batches.blueprint(),
        allocations.blueprint(),
        reservations.blueprint(),
        products.blueprint(),
        commands.blueprint(),
        health.blueprint(database),
        metrics.blueprint(figures),
        docs.blueprint(),
        pages.blueprint(),
        assets.blueprint(),
        login.blueprint(guard),
        stream.blueprint(events, guard),
    ):
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
