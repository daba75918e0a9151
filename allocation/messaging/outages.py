"""Work over one connection after the other: a new one after each outage of broker or database."""

import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from kombu import Connection

from allocation.messaging import backoff

STABLE = 10.0
"""Seconds: the backoff starts anew if a connection could be used this long."""


def work_through_outages(
    stop: threading.Event,
    connect: Callable[[], Connection],
    work: Callable[[Connection], float],
    on_outage: Callable[[Exception, float], None],
    outages: Sequence[type[Exception]],
) -> None:
    """Call `work` with a new connection until `stop` is set.

    `work` returns the seconds after which it is called again. If it raises an error of the
    connection or one of `outages`, `on_outage` gets the error and the seconds of the backoff.
    """
    failures = 0
    while not stop.is_set():
        connection = connect()
        lost = (OSError, *connection.connection_errors, *connection.channel_errors)
        started = time.monotonic()
        try:
            seconds = work(connection)
            failures = 0
        except (*outages, *lost) as error:
            connection.collect()  # don't close it: the broker may not answer
            failures = 1 if time.monotonic() - started > STABLE else failures + 1
            seconds = backoff.seconds(failures)
            on_outage(error, seconds)
        finally:
            connection.release()
        stop.wait(seconds)


def exchange_heartbeats(connection: Connection) -> None:
    """Send a heartbeat if one is due, and read the broker's."""
    if connection.heartbeat:
        connection.heartbeat_check()
        with suppress(TimeoutError):
            connection.drain_events(timeout=0.001)


def is_missing(error: Exception) -> bool:
    """Whether the broker says that it has no such queue or exchange."""
    return str(getattr(error, "reply_code", "")) == "404"
