"""PostgreSQL's notifications: a commit wakes the listeners of its channel."""

import select
from collections.abc import Callable, Set
from contextlib import suppress
from typing import NamedTuple

import psycopg2
from sqlalchemy import Connection

DECIDED_CHANNEL = "allocation_decided"
"""Notified by each commit that decides a command that was accepted before."""


class Notification(NamedTuple):
    channel: str
    payload: str


Wait = Callable[[float], Set[Notification]]
"""Wait at most this number of seconds for a notification; returns all that came."""


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

    def wait(seconds: float) -> Set[Notification]:
        # A statement on this connection may have received some already.
        if not driver.notifies and not select.select([driver], [], [], seconds)[0]:
            return frozenset()
        with suppress(psycopg2.Error):
            driver.poll()
            notified = {Notification(each.channel, each.payload) for each in driver.notifies}
            driver.notifies.clear()
            return notified
        # The connection is lost: a statement raises that as SQLAlchemy's error.
        with connection.begin():
            connection.exec_driver_sql("SELECT 1")
        return frozenset()

    return wait
