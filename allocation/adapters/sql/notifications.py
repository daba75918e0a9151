"""PostgreSQL's notifications: a commit wakes the listeners of its channel."""

import select
from collections.abc import Callable, Set
from contextlib import suppress

import psycopg2
from sqlalchemy import Connection

DECIDED_CHANNEL = "allocation_decided"
"""Notified by each commit that decides a command that was accepted before."""

Wait = Callable[[float], Set[str]]
"""Wait at most this number of seconds for a notification; returns the notified channels."""


def listen(connection: Connection, *channels: str) -> Wait:
    """Listen on the channels of PostgreSQL; the wait for their notifications.

    The connection has to be in AUTOCOMMIT, and must not go back into a pool: it still listens. The
    wait raises SQLAlchemy's error when the connection is lost.
    """
    with connection.begin():
        for channel in channels:
            connection.exec_driver_sql(f"LISTEN {channel}")
    driver = connection.connection.driver_connection
    assert driver is not None

    def wait(seconds: float) -> Set[str]:
        if not select.select([driver], [], [], seconds)[0]:
            return frozenset()
        with suppress(psycopg2.Error):
            driver.poll()
            notified = {each.channel for each in driver.notifies}
            driver.notifies.clear()
            return notified
        # The connection is lost: a statement raises that as SQLAlchemy's error.
        with connection.begin():
            connection.exec_driver_sql("SELECT 1")
        return frozenset()

    return wait
