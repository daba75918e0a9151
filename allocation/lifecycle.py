"""What lasting processes share: to stop when asked to, to pause, and to show that they live."""

import _thread
import random
import signal
import threading

from kombu import Connection

from allocation import bootstrap, health

LONGEST_PAUSE = 5.0  # seconds between two tries while something is down


def stop_signal() -> threading.Event:
    """Set by SIGTERM and SIGINT from now on.

    By a thread of its own: the signal may come while the main thread holds the event's lock, and
    to wait for that in the handler would be for ever.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
    return stop


def pause(failures: int) -> float:
    """Seconds until the next try: about 0.3 after the first failure, doubling, with jitter."""
    full = min(LONGEST_PAUSE, 0.2 * 2 ** min(failures, 20))
    return full * random.uniform(0.5, 1)  # noqa: S311 - jitter needs no secrecy


def beat(connection: Connection, name: str) -> None:
    """Tell the container's health check, and the broker, that the process called `name` lives."""
    health.beat(bootstrap.settings(), name)
    if connection.heartbeat:
        connection.heartbeat_check()
        try:
            connection.drain_events(timeout=0.001)
        except TimeoutError:
            pass
