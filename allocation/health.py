"""Health checks for containers: `python -m allocation.health PROCESS` asks the process itself.

A program of its own: the command line takes a second of work to start, and this runs all the time.
"""

import base64
import os
import socket
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable

from allocation.messaging import garbage_collection
from allocation.messaging.telemetry import heartbeat
from allocation.settings import Settings

STALE = 60.0  # seconds
TIMEOUT = 8.0  # seconds


class Unhealthy(Exception):
    """The process does not do its work; the text says what was seen."""


def check(settings: Settings, name: str) -> None:
    """Ask the process called `name` in this container. Raises Unhealthy."""
    CHECKS.get(name, _alive)(settings, name)


def _api(settings: Settings, _name: str) -> None:
    _get(f"http://127.0.0.1:{settings.port}/readyz", {})


def _flower(settings: Settings, _name: str) -> None:
    credentials = base64.b64encode(os.environ.get("FLOWER_BASIC_AUTH", "").encode()).decode()
    _get(
        f"http://127.0.0.1:{settings.flower_port}/healthcheck",
        {"Authorization": f"Basic {credentials}"},
    )


def _worker(_settings: Settings, _name: str) -> None:
    from allocation.entrypoints.worker.app import app

    node = f"celery@{socket.gethostname()}"
    if not app.control.inspect(destination=[node], timeout=TIMEOUT).ping():
        raise Unhealthy(f"the worker {node} does not respond")


def _alive(settings: Settings, name: str) -> None:
    last = heartbeat.last_beat(settings.state_dir, name)
    if last is None:
        raise Unhealthy(f"{name} has not sent a heartbeat yet")
    if (age := time.time() - last) > STALE:
        raise Unhealthy(f"{name} sent its last heartbeat {age:.0f} seconds ago")


def _get(url: str, headers: dict[str, str]) -> None:
    request = urllib.request.Request(url, headers=headers)  # noqa: S310 - our own address
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):  # noqa: S310 - our own address
            pass
    except (urllib.error.URLError, OSError) as error:
        raise Unhealthy(f"{url}: {error}") from error


CHECKS: dict[str, Callable[[Settings, str], None]] = {
    "api": _api,
    "flower": _flower,
    "worker": _worker,
}


def main(name: str) -> None:
    """End with exit status 1 and a sentence when the process called `name` is not healthy."""
    garbage_collection.relax()
    try:
        check(Settings(), name)
    except Unhealthy as reason:
        sys.exit(str(reason))


if __name__ == "__main__":
    main(sys.argv[1])
