"""What the views of one application share: one object, built once by `create_app`."""

from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import date

from flask import Flask, current_app
from sqlalchemy import Connection

from allocation import views
from allocation.adapters.sql.database import clock
from allocation.bootstrap import Dependencies
from allocation.entrypoints.api.auth.security import Guard
from allocation.entrypoints.api.http.commit_listener import CommitListener
from allocation.entrypoints.api.http.concurrency import Concurrency
from allocation.entrypoints.api.http.database_state import DatabaseState
from allocation.entrypoints.api.http.load_shedding import LoadShedder
from allocation.entrypoints.api.http.telemetry import Metrics
from allocation.entrypoints.api.http.waiting import OutcomeWaiter
from allocation.entrypoints.api.resources.live_events import LiveEvents

_KEY = "allocation"


@dataclass(frozen=True, slots=True)
class Api:
    """The dependencies of the process, and what is built from them for its requests."""

    dependencies: Dependencies
    database: DatabaseState
    metrics: Metrics
    concurrency: Concurrency
    commits: CommitListener
    waiter: OutcomeWaiter
    load_shedder: LoadShedder
    live_events: LiveEvents
    guard: Guard
    openapi: views.Json

    def today(self, connection: Connection) -> date:
        """The day that it is in the shop, by the database's clock."""
        return clock(connection).astimezone(self.dependencies.settings.calendar).date()

    def stop(self) -> None:
        """End streams, and requests that wait for an outcome: the process is about to end."""
        self.waiter.stop()
        self.live_events.stop()
        self.commits.stop()


def install(app: Flask, api: Api) -> None:
    """Make `api` the state of the application's requests."""
    app.extensions[_KEY] = api


def of(app: Flask) -> Api:
    """The state of this application."""
    api: Api = app.extensions[_KEY]
    return api


def current() -> Api:
    """The state of the application that serves this request."""
    return of(current_app)


def today(connection: Connection) -> date:
    """The day that it is in the shop, for the application that serves this request."""
    return current().today(connection)


def snapshot() -> AbstractContextManager[Connection]:
    """A connection for one answer; see `views.snapshot`."""
    return views.snapshot(current().dependencies.engine)
