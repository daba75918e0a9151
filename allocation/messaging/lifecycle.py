"""What lasting processes share: they stop when asked to, and show that they live."""

import _thread
import signal
import threading
from collections.abc import Callable
from pathlib import Path

from kombu import Connection

from allocation.messaging.outages import exchange_heartbeats
from allocation.messaging.telemetry import heartbeat


def stop_signal() -> threading.Event:
    """Set by SIGTERM and SIGINT from now on.

    By a thread of its own: the signal may come while the main thread holds the event's lock, and
    to wait for that in the handler would be for ever.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
    return stop


def alive_until(stop: threading.Event, state_dir: Path, name: str) -> Callable[[float], object]:
    """A wait that `stop` ends, and that shows that the process called `name` is alive."""

    def wait(seconds: float) -> None:
        heartbeat.beat(state_dir, name)
        stop.wait(seconds)

    return wait


def beat(connection: Connection, state_dir: Path, name: str) -> None:
    """Show the container's health check, and the broker, that the process called `name` lives."""
    heartbeat.beat(state_dir, name)
    exchange_heartbeats(connection)
