"""`allocation up`: which processes run on one machine, on which ports, and when they are ready."""

import fcntl
import os
import secrets
import signal
import socket
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from allocation.entrypoints.cli import setup
from allocation.entrypoints.cli.supervisor import Command, Supervisor
from allocation.entrypoints.cli.terminal import ask_database, fail
from allocation.messaging.telemetry import heartbeat

if TYPE_CHECKING:
    from allocation.settings import Settings

LOCK = "up.lock"
"""The file in the state folder that an `allocation up` holds a lock on."""

_AS_ROOT = "You're running the worker with superuser privileges"
"""The start of a warning of Celery about pickle, which this worker does not accept."""


class Unavailable(Exception):
    """A port or a folder that `allocation up` needs is in use; the text says what to do."""


def up() -> None:
    """Run everything on this machine: api, worker, relay, inbound, subscribers, flower.

    It ends with exit status 0 on Ctrl-C, SIGTERM, or when its output is closed; with 1 if a
    process stops by itself, or a port or the state folder is in use.
    """
    from allocation import bootstrap
    from allocation.adapters.sql import migrations

    # Ctrl-C ends the preparations at once, also while a database is slow: nothing runs yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    dependencies = bootstrap.build()
    settings = dependencies.settings
    try:
        locks = claim(settings)
    except Unavailable as refusal:
        fail(str(refusal))
    ask_database(settings, lambda: migrations.upgrade(settings.database_url), makes_it=True)
    setup.declare(dependencies)
    broke = run(settings, os.environ, locks)
    if broke:
        name, status = broke
        fail(
            f"{name} stopped with exit status {status}, so everything was stopped;"
            " its last lines above say why"
        )


@dataclass(frozen=True, slots=True)
class Process:
    """One of the processes: `is_ready` is called with the time.time() of the start."""

    name: str
    arguments: Sequence[str]
    is_ready: Callable[[float], bool]
    metrics_port: str = ""
    """The variable of the port of its metrics, if it serves them on one of their own."""
    after: tuple[str, ...] = ()


def processes(settings: "Settings") -> list[Process]:
    """Every process, as `allocation up` runs it."""
    python = [sys.executable, "-m"]
    celery = [*python, "celery", "-A", "allocation"]
    worker = [*celery, "--quiet", "worker", "--without-gossip", "--without-mingle"]
    port = settings.flower_port
    flower = [*celery, "flower", "--address=127.0.0.1", f"--port={port}", "--logging=warning"]

    def beats(name: str, arguments: Sequence[str], metrics_port: str) -> Process:
        is_ready = partial(heartbeat.beaten_since, settings.state_dir, name)
        return Process(name, arguments, is_ready, metrics_port)

    return [
        Process(
            "api", [*python, "allocation", "api"], lambda _: _answers(f"{page(settings)}readyz")
        ),
        beats("worker", worker, "ALLOCATION_METRICS_PORT"),
        beats("relay", [*python, "allocation", "relay"], "ALLOCATION_METRICS_PORT"),
        beats("inbound", [*python, "allocation", "inbound"], "ALLOCATION_METRICS_PORT"),
        beats("warehouse", [*python, "workers.warehouse"], "WAREHOUSE_METRICS_PORT"),
        beats("notification", [*python, "workers.notification"], "NOTIFICATION_METRICS_PORT"),
        # Flower asks the workers when it starts, and logs errors if there are none.
        Process("flower", flower, lambda _: _listens("127.0.0.1", port), after=("worker",)),
    ]


def page(settings: "Settings") -> str:
    """The address of the API's page, for a browser on this machine."""
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "::") else settings.host  # noqa: S104 - it is only read
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}/"


_FLOWERS_OWN = ("FLOWER_BASIC_AUTH", "FLOWER_AUTH", "FLOWER_UNAUTHENTICATED_API")
_OFF = ("", "0", "false", "no", "off")


def flower_login(environment: Mapping[str, str]) -> str | None:
    """A login for Flower, `user:password`, new for this run; None where one was configured.

    Without one, Flower's API answers no request, and its pages let everyone stop the workers.
    """
    if any(environment.get(name, "").lower() not in _OFF for name in _FLOWERS_OWN):
        return None
    return f"allocation:{secrets.token_urlsafe(12)}"


def metrics_ports(settings: "Settings") -> dict[str, int]:
    """By process: the port of its metrics; none unless the first one is set."""
    if settings.metrics_port is None:
        return {}
    serving = [process.name for process in processes(settings) if process.metrics_port]
    return dict(zip(serving, count(settings.metrics_port), strict=False))


def claim(settings: "Settings") -> list[int]:
    """Check every port, and lock the embedded state until this process and all it starts end.

    Returns the file descriptors of the locks. Raises Unavailable; then nothing was written.
    """
    locks = [folder / LOCK for folder in _embedded(settings)]
    # Another `up` on the same folder holds its ports too: the error names the folder.
    held = [_lock(path) for path in locks if path.exists()]
    _check_ports(settings)
    return held + [_lock(path) for path in locks if not path.exists()]


def _embedded(settings: "Settings") -> list[Path]:
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
            f"{path}: {error.strerror}: choose another folder with ALLOCATION_STATE_DIR"
        ) from error
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.read(lock, 20).decode(errors="replace").strip()
        os.close(lock)
        raise Unavailable(
            f"another `allocation up` uses the folder {path.parent} (process {holder}, or"
            " processes that it started): stop it, or choose another folder with"
            " ALLOCATION_STATE_DIR"
        ) from None
    os.ftruncate(lock, 0)
    os.write(lock, f"{os.getpid()}\n".encode())
    return lock


def _check_ports(settings: "Settings") -> None:
    """Listen on each of them for a moment, all at once: two may be set to the same."""
    needed = [
        ("the API", settings.host.strip("[]"), settings.port, "ALLOCATION_PORT"),
        ("Flower", "127.0.0.1", settings.flower_port, "ALLOCATION_FLOWER_PORT"),
        *(
            (f"the metrics of {name}", settings.metrics_host, port, "ALLOCATION_METRICS_PORT")
            for name, port in metrics_ports(settings).items()
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
                    f"{what} can't listen on {host}:{port}: {reason}; stop the program that uses"
                    f" the port, or set {variable} to another port"
                ) from error


def run(
    settings: "Settings", environment: Mapping[str, str], locks: list[int]
) -> tuple[str, int] | None:
    """Run everything until something stops `up`.

    Returns the name and exit status of the process that stopped by itself, if one did.
    """
    login = flower_login(environment)
    quiet = ",".join(filter(None, (environment.get("PYTHONWARNINGS"), f"ignore:{_AS_ROOT}")))
    shared = {**environment, "PYTHONWARNINGS": quiet}
    if login is not None:
        shared["FLOWER_BASIC_AUTH"] = login
    ports = metrics_ports(settings)
    commands = []
    for each in processes(settings):
        own = {each.metrics_port: str(ports[each.name])} if each.name in ports else {}
        commands.append(Command(each.name, each.arguments, shared | own, each.is_ready, each.after))
    supervisor = Supervisor(commands, partial(_where, settings, login), inherited=locks)
    supervisor.run()
    return supervisor.broke


def _answers(url: str) -> bool:
    import urllib.request
    from http.client import HTTPException

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


def _where(settings: "Settings", login: str | None, waiting: Sequence[str]) -> str:
    """The addresses of everything that is served; `waiting` names what is not ready yet.

    `login` is Flower's, if it is a new one.
    """
    user, _, password = (login or "").partition(":")
    asks = f" (user {user}, password {password})" if login else ""
    addresses = {
        "page": page(settings),
        "docs": f"{page(settings)}docs, of the messages {page(settings)}docs/events",
        "Flower": f"http://127.0.0.1:{settings.flower_port}/{asks}",
    }
    for name, port in metrics_ports(settings).items():
        addresses[f"metrics of {name}"] = f"http://{settings.metrics_host}:{port}/metrics"
    state = f"Not ready yet, see above: {', '.join(waiting)}" if waiting else "Everything is ready"
    lines = [f"  {name:7} {address}" for name, address in addresses.items()]
    return "\n".join([f"{state}; Ctrl-C stops it.", *lines])
