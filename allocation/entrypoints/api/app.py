"""The Flask application: every resource, behind one key, with one way to say what is wrong."""

from flask import Flask

from allocation.adapters.sql.api_keys import ApiKeys
from allocation.bootstrap import Dependencies
from allocation.entrypoints.api import pages, state
from allocation.entrypoints.api.auth import login, security
from allocation.entrypoints.api.description import openapi
from allocation.entrypoints.api.http import (
    concurrency,
    database_state,
    parsing,
    problems,
    telemetry,
)
from allocation.entrypoints.api.http.commit_listener import CommitListener
from allocation.entrypoints.api.http.concurrency import Concurrency
from allocation.entrypoints.api.http.database_state import DatabaseState
from allocation.entrypoints.api.http.load_shedding import LoadShedder
from allocation.entrypoints.api.http.rate_limit import RateLimits, rate_limit
from allocation.entrypoints.api.http.telemetry import Metrics
from allocation.entrypoints.api.http.waiting import OutcomeWaiter
from allocation.entrypoints.api.pages import error_pages
from allocation.entrypoints.api.resources.live_events import LiveEvents


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
    parsing.route_by_sent_path(app)

    commits = CommitListener(engine)
    database = DatabaseState(engine, settings.resend_after)
    limits = RateLimits(rate_limit(settings))
    api = state.Api(
        dependencies=dependencies,
        database=database,
        metrics=Metrics(lambda: database.ask().backlog),
        concurrency=Concurrency(settings.api_threads),
        commits=commits,
        waiter=OutcomeWaiter(settings.api_waits, commits),
        load_shedder=LoadShedder(engine, settings),
        live_events=LiveEvents(settings.api_streams, commits),
        guard=security.Guard(settings, ApiKeys(engine), limits),
        openapi=openapi.document(),
    )
    state.install(app, api)

    opened = openapi.open_endpoints() | pages.OPEN
    telemetry.register(app, api.metrics)
    concurrency.register(app, api.concurrency, opened)
    problems.register(app, error_pages.answer)
    database_state.register(app, engine, opened | {"health.metrics"})
    security.register(app, api.guard, limits, opened | login.OPEN)
    security.register_sessions(app, security.session_secret(settings, session_secret))
    app.before_request(parsing.check_address)
    for resource in openapi.RESOURCES:
        app.register_blueprint(resource.blueprint)
    for blueprint in (pages.blueprint(), pages.assets, login.blueprint):
        app.register_blueprint(blueprint)
    return app
