"""Where the parts meet: builds engines, connections and units of work from the settings."""

from functools import cache

from kombu import Connection
from sqlalchemy import Engine

from allocation.adapters import metrics
from allocation.adapters.sql import database
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.messaging.connection import connect
from allocation.settings import Settings


@cache
def settings() -> Settings:
    """The process's settings, read from the environment once."""
    return Settings()


@cache
def engine(url: str) -> Engine:
    """The process's engine for this database; it opens connections when they are needed."""
    return database.engine(url, pool_size=settings().api_threads + 2)


def unit_of_work() -> SqlUnitOfWork:
    """A unit of work on the configured database."""
    # Not `figures.worker().locked`: whoever locks nothing has none of the worker's figures.
    return SqlUnitOfWork(
        engine(settings().database_url), locked=lambda seconds: metrics.worker().locked(seconds)
    )


def confirming_broker() -> Connection:
    """A connection of which every publish waits until the broker has the message."""
    connection = broker()
    if settings().broker_transport is None:
        connection.transport_options["confirm_publish"] = True
    return connection


def broker() -> Connection:
    """A connection to the configured broker, not open yet."""
    return connect(settings().broker_url, settings().broker_transport)
