"""Serves a process's metrics to Prometheus, where a port is set for them."""

import atexit
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from wsgiref.simple_server import WSGIServer

from prometheus_client import (
    CollectorRegistry,
    ProcessCollector,
    disable_created_metrics,
    start_http_server,
    values,
)
from prometheus_client.multiprocess import MultiProcessCollector

SHARED_FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""The variable that names the folder through which processes share their metrics."""

_servers: list[WSGIServer] = []


def serve(registry: CollectorRegistry, host: str, port: int | None, program: str) -> None:
    """Serve the metrics of this process, if there is a port.

    Ends the process with a sentence if the port is taken. `program` names itself and the variable
    of the port there: `warehouse` has WAREHOUSE_METRICS_PORT.
    """
    if port is not None:
        ProcessCollector(registry=registry)
        _serve(registry, host, port, program)


def serve_pool(host: str, port: int | None, program: str, place: Callable[[], int | None]) -> None:
    """Serve the metrics of this process and of the children of its pool together.

    They share a folder. A child's files are named by its `place` in the pool (None in the parent),
    not by its process id: so its successor counts on from where it ended, and the files don't
    become more and more.
    """
    if port is None:
        return
    folder = tempfile.mkdtemp(prefix="allocation-metrics-", dir=shared_memory())
    # Children end without this: they leave by `os._exit`.
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ[SHARED_FOLDER] = folder

    def name() -> str:
        index = place()
        return "parent" if index is None else f"child{index}"

    values.ValueClass = values.MultiProcessValue(name)
    together = CollectorRegistry()
    MultiProcessCollector(together, path=folder)
    _serve(together, host, port, program)


def shared_memory() -> str | None:
    """A folder in memory for metrics that processes share; None if there is none, or TMPDIR is set.

    These are memory-mapped files: on a full disk, a write to one would kill the process.
    """
    if "TMPDIR" in os.environ:
        return None
    return "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108 - mkdtemp is used


def leave_to_parent() -> None:
    """In a child: close the socket that came with the fork, else it would outlive the parent."""
    while _servers:
        _servers.pop().socket.close()


def _serve(registry: CollectorRegistry, host: str, port: int, program: str) -> None:
    disable_created_metrics()  # a second series for each one, which nobody looks at
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        sys.exit(
            f"{program}: no metrics can be served at {host}:{port}: {error.strerror};"
            f" set {program.upper()}_METRICS_PORT to another port, or unset it"
            " (ALLOCATION_METRICS_HOST is the address)"
        )
    _servers.append(server)
