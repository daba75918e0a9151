"""`allocation up`: every process under one supervisor, on one machine."""

import errno
import os
import secrets
import shlex
import signal
import sys
from collections.abc import Mapping

from honcho import manager as honcho_manager
from honcho.manager import Manager
from honcho.printer import Message, Printer

from allocation.settings import Settings

# Long enough for the worker's own soft shutdown.
KILL_WAIT = 30  # seconds


class _OwnSignals:
    """Signals go to the process itself, not to its children: each knows how to stop its own."""

    def terminate(self, pid: int) -> None:
        os.kill(pid, signal.SIGTERM)

    def kill(self, pid: int) -> None:
        os.killpg(pid, signal.SIGKILL)


class PatientPrinter(Printer):
    """Drops lines while the disk that the output goes to is full: no process ends by that."""

    def write(self, message: Message) -> None:
        try:
            super().write(message)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise


class Supervisor(Manager):
    """Starts all, prefixes their output, and stops all when one stops or a signal comes.

    `broke` is the name and exit status of the process that stopped by itself, if one did.
    """

    def __init__(self) -> None:
        super().__init__(PatientPrinter(sys.stdout))
        self._procmgr = _OwnSignals()
        self.broke: tuple[str, int] | None = None

    def terminate(self) -> None:
        if self.returncode not in (130, 143):
            stopped = (
                (name, process["returncode"])
                for name, process in self._processes.items()
                if "returncode" in process
            )
            self.broke = self.broke or next(stopped, None)
        super().terminate()


def processes(settings: Settings) -> dict[str, list[str]]:
    """Name and command of every process, as `allocation up` runs them."""
    python = sys.executable
    celery = [python, "-m", "celery", "-A", "allocation"]
    return {
        "api": [python, "-m", "allocation.cli", "api"],
        "worker": [*celery, "worker", "--without-gossip", "--without-mingle"],
        "relay": [python, "-m", "allocation.cli", "relay"],
        "inbound": [python, "-m", "allocation.cli", "inbound"],
        "warehouse": [python, "-m", "workers.warehouse"],
        "notification": [python, "-m", "workers.notification"],
        "flower": [*celery, "flower", "--address=127.0.0.1", f"--port={settings.flower_port}"],
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

    Without any, its API answers nobody, and its pages let everyone stop the workers.
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


def run(
    commands: dict[str, list[str]],
    environment: dict[str, str],
    ports: dict[str, tuple[str, int]],
) -> Supervisor:
    """Run the commands until one stops, or SIGINT or SIGTERM comes; returns what happened.

    `ports` as of `metrics_ports`.
    """
    honcho_manager.KILL_WAIT = KILL_WAIT
    supervisor = Supervisor()
    for name, command in commands.items():
        own = {}
        if name in ports:
            variable, port = ports[name]
            own = {variable: str(port)}
        # exec: the shell that the supervisor starts must not stand between it and the process.
        supervisor.add_process(name, f"exec {shlex.join(command)}", env=environment | own)
    supervisor.loop()
    return supervisor
