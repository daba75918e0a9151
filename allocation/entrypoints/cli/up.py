"""`allocation up`: which processes run on one machine, on which ports, and when they are ready."""

import fcntl
import os
import secrets
import socket
import sys
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.parse import unquote, urlsplit

from allocation.entrypoints.cli.supervisor import Command, Supervisor
from allocation.messaging.telemetry import heartbeat
from allocation.settings import Settings

LOCK = "up.lock"
"""The file in the state folder that an `allocation up` holds a lock on."""

_AS_ROOT = "You're running the worker with superuser privileges"
"""The start of a warning of Celery about pickle, which this worker does not accept."""


class Unavailable(Exception):
    """A port or a folder that `allocation up` needs is in use; the text says what to do."""


def processes(settings: Settings) -> dict[str, list[str]]:
    """Name and command of every process, as `allocation up` runs them."""
    python = sys.executable
    celery = [python, "-m", "celery", "-A", "allocation"]
    return {
        "api": [python, "-m", "allocation", "api"],
        "worker": [*celery, "--quiet", "worker", "--without-gossip", "--without-mingle"],
        "relay": [python, "-m", "allocation", "relay"],
        "inbound": [python, "-m", "allocation", "inbound"],
        "warehouse": [python, "-m", "workers.warehouse"],
        "notification": [python, "-m", "workers.notification"],
        "flower": [
            *celery,
            "flower",
            "--address=127.0.0.1",
            f"--port={settings.flower_port}",
            "--logging=warning",
        ],
    }


def page(settings: Settings) -> str:
    """The address of the API's page, for a browser on this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - it is only read
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/"


def addresses(settings: Settings, login: str | None) -> dict[str, str]:
    """What `allocation up` serves to people, and where; `login` is Flower's, if it is a new one."""
    user, _, password = (login or "").partition(":")
    asks = f" (user {user}, password {password})" if login else ""
    return {
        "page": page(settings),
        "docs": f"{page(settings)}docs, of the messages {page(settings)}docs/events",
        "Flower": f"http://127.0.0.1:{settings.flower_port}/{asks}",
    }


_FLOWERS_OWN = ("FLOWER_BASIC_AUTH", "FLOWER_AUTH", "FLOWER_UNAUTHENTICATED_API")
_OFF = ("", "0", "false", "no", "off")


def flower_login(environment: Mapping[str, str]) -> str | None:
    """A login for Flower, `user:password`, new for this run; None where one was configured.

    Without one, Flower's API answers no request, and its pages let everyone stop the workers.
    """
    if any(environment.get(name, "").lower() not in _OFF for name in _FLOWERS_OWN):
        return None
    return f"allocation:{secrets.token_urlsafe(12)}"


def metrics_ports(settings: Settings) -> dict[str, tuple[str, int]]:
    """By process: the variable of its metrics' port, and the port; none unless the first is set."""
    if (first := settings.metrics_port) is None:
        return {}
    return {
        "worker": ("ALLOCATION_METRICS_PORT", first),
        "relay": ("ALLOCATION_METRICS_PORT", first + 1),
        "inbound": ("ALLOCATION_METRICS_PORT", first + 2),
        "warehouse": ("WAREHOUSE_METRICS_PORT", first + 3),
        "notification": ("NOTIFICATION_METRICS_PORT", first + 4),
    }


def claim(settings: Settings) -> list[int]:
    """Check every port, and lock the embedded state until this process and all it starts end.

    Returns the file descriptors of the locks. Raises Unavailable; then nothing was written.
    """
    locks = [folder / LOCK for folder in _embedded(settings)]
    # Another `up` on the same folder holds its ports too: the error names the folder.
    held = [_lock(path) for path in locks if path.exists()]
    _check_ports(settings)
    return held + [_lock(path) for path in locks if not path.exists()]


def _embedded(settings: Settings) -> list[Path]:
    """The folders of the embedded database and broker."""
    folders = []
    if settings.database_url.startswith("sqlite:"):
        folders.append(settings.state_dir)
    if settings.broker_transport is not None:
        spool = Path(unquote(urlsplit(settings.broker_url).path))
        folders.append(settings.state_dir if settings.state_dir in spool.parents else spool)
    return list(dict.fromkeys(folders))


def _lock(path: Path) -> int:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    except OSError as error:
        raise Unavailable(
            f"{path}: {error.strerror}: choose another folder by ALLOCATION_STATE_DIR"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode(errors="replace").strip()
        os.close(lock)
        raise Unavailable(
            f"another `allocation up` uses the folder {path.parent} (process {holder}, or"
            " processes that outlived it): stop it, or choose another folder by"
            " ALLOCATION_STATE_DIR"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _check_ports(settings: Settings) -> None:
    """Listen on each of them for a moment, all at once: two may be set to the same."""
    needed = [
        ("the API", settings.host.strip("[]"), settings.port, "ALLOCATION_PORT"),
        ("Flower", "127.0.0.1", settings.flower_port, "ALLOCATION_FLOWER_PORT"),
        *(
            (f"the metrics of {name}", settings.metrics_host, port, "ALLOCATION_METRICS_PORT")
            for name, (_, port) in metrics_ports(settings).items()
        ),
    ]
    with ExitStack() as stack:
        for what, host, port, variable in needed:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                stack.enter_context(socket.create_server((host, port), family=family))
            except (OSError, OverflowError) as error:
                reason = (
                    os.strerror(error.errno)
                    if isinstance(error, OSError) and error.errno
                    else error
                )
                raise Unavailable(
                    f"{what} can't listen on {host}:{port}: {reason}; stop what uses it, or set"
                    f" {variable} to another port"
                ) from error


def run(settings: Settings, environment: Mapping[str, str], locks: list[int]) -> Supervisor:
    """Run everything until one process stops, or something stops `up`; returns what happened."""
    login = flower_login(environment)
    quiet = ",".join(filter(None, (environment.get("PYTHONWARNINGS"), f"ignore:{_AS_ROOT}")))
    shared = {**environment, "PYTHONWARNINGS": quiet}
    if login is not None:
        shared["FLOWER_BASIC_AUTH"] = login
    ports = metrics_ports(settings)
    ready = _readiness(settings)
    commands = [
        Command(
            name,
            arguments,
            shared | ({ports[name][0]: str(ports[name][1])} if name in ports else {}),
            is_ready=ready[name],
            # Flower asks the workers when it starts, and logs errors if there are none.
            after=("worker",) if name == "flower" else (),
        )
        for name, arguments in processes(settings).items()
    ]
    supervisor = Supervisor(commands, partial(_where, settings, login), inherited=locks)
    supervisor.run()
    return supervisor


def _readiness(settings: Settings) -> dict[str, Callable[[float], bool]]:
    """By process: whether it is ready, given when it was started."""
    signs = ("worker", "relay", "inbound", "warehouse", "notification")
    return {
        "api": lambda _started: _is_ready(f"{page(settings)}readyz"),
        "flower": lambda _started: _listens("127.0.0.1", settings.flower_port),
    } | {name: partial(heartbeat.beaten_since, settings.state_dir, name) for name in signs}


def _is_ready(url: str) -> bool:
    direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with direct.open(url, timeout=5):
            return True
    except (OSError, HTTPException):
        return False


def _listens(host: str, port: int) -> bool:
    try:
        with socket.create_connection((host, port), timeout=5):
            return True
    except OSError:
        return False


def _where(settings: Settings, login: str | None, waiting: Sequence[str]) -> str:
    """The addresses of everything that is served; `waiting` names what is not ready yet."""
    metrics = {
        f"metrics of {name}": f"http://{settings.metrics_host}:{port}/metrics"
        for name, (_, port) in metrics_ports(settings).items()
    }
    lines = [
        f"  {name:7} {address}" for name, address in (addresses(settings, login) | metrics).items()
    ]
    state = f"Not ready yet, see above: {', '.join(waiting)}" if waiting else "Everything is ready"
    return "\n".join([f"{state}; Ctrl-C stops it.", *lines])
