"""What lasting processes share: to stop when asked to, to pause, and to show that they live."""

import _thread
import signal
import threading
import time
from collections.abc import Callable

import structlog
from kombu import Connection

from allocation import bootstrap, health
from allocation.adapters.sql import migrations
from allocation.adapters.sql.database import NO_SCHEMA

log = structlog.get_logger(__name__)

LOOK_EVERY = 1.0  # seconds between two checks of the schema
SAY_EVERY = 30.0  # seconds between two log lines about what is missing


def stop_signal() -> threading.Event:
    """Set by SIGTERM and SIGINT from now on.

    By a thread of its own: the signal may come while the main thread holds the event's lock, and
    to wait for that in the handler would be for ever.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
    return stop


def wait_for_schema(wait: Callable[[float], object], stopped: Callable[[], bool]) -> None:
    """Return once the database has the schema of this version or of a later one, or when stopped.

    `wait` is called with the seconds to wait. Logs what is missing at once, then every SAY_EVERY
    seconds. Raises SQLAlchemyError if the database can't be reached.
    """
    said = -SAY_EVERY
    while _is_behind() and not stopped():
        if time.monotonic() - said >= SAY_EVERY:
            log.error(f"waiting: {NO_SCHEMA}")
            said = time.monotonic()
        wait(LOOK_EVERY)


def alive_until(stop: threading.Event, name: str) -> Callable[[float], object]:
    """A wait that `stop` ends, and that reports that the process called `name` is alive."""

    def wait(seconds: float) -> None:
        health.beat(bootstrap.settings(), name)
        stop.wait(seconds)

    return wait


def _is_behind() -> bool:
    engine = bootstrap.engine(bootstrap.settings().database_url)
    try:
        with engine.connect() as connection:
            return migrations.is_behind(connection)
    finally:
        engine.dispose()  # the worker forks processes, which must not inherit a connection


def beat(connection: Connection, name: str) -> None:
    """Tell the container's health check, and the broker, that the process called `name` lives."""
    health.beat(bootstrap.settings(), name)
    if connection.heartbeat:
        connection.heartbeat_check()
        try:
            connection.drain_events(timeout=0.001)
        except TimeoutError:
            pass
