"""How a lasting process stops when it is asked to."""

import _thread
import signal
import threading


def stop_signal() -> threading.Event:
    """Set by SIGTERM and SIGINT from now on.

    By a thread of its own: the signal may come while the main thread holds the event's lock, and
    to wait for that in the handler would be for ever.
    """
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: _thread.start_new_thread(stop.set, ()))
    return stop
