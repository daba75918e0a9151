"""Real commands as processes: started, watched through their log, stopped and killed by pid."""

import os
import pwd
import re
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from tests.waiting import eventually

ROOT = Path(__file__).resolve().parents[2]

# What the caller's shell set for its own services must not reach the tests' processes. Without
# bytecode each process compiles the product at its start, for a third of a second.
_NOT_INHERITED = (
    *("ALLOCATION_", "WAREHOUSE_", "NOTIFICATION_"),
    *("RABBITMQ_", "ERL_", "PG", "NOTIFY_", "PYTHONDONTWRITEBYTECODE"),
)

_LEAVE_NOTHING = {
    *("relay", "inbound", "worker", "flower"),
    *("workers.warehouse", "workers.notification"),
}
"""Words of commands that leave nothing outside the test's folder when they are killed."""


class Process:
    """One command, in a process group of its own; may be started again after it ended.

    `env` is added to this process's environment, `cwd` is the project's root unless given. Standard
    output and error go to `log`, which grows over restarts. `user` (for root alone) runs it.
    """

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        log: Path,
        env: Mapping[str, str] | None = None,
        cwd: Path = ROOT,
        user: str | None = None,
    ) -> None:
        self.command = [str(part) for part in command]
        self.name = log.stem
        self._log = log
        self._env = clean_environment() | dict(env or {})
        self._cwd = cwd
        self._user = user
        self._popen: subprocess.Popen[bytes] | None = None
        self._log_start = 0

    def start(self) -> Self:
        """Start the command, which must not be running."""
        if self.running:
            raise RuntimeError(f"{self.name} is running already")
        with self._log.open("ab") as log:
            self._log_start = log.tell()
            self._popen = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=self._env,
                cwd=self._cwd,
                user=self._user,
                group=None if self._user is None else _group_of(self._user),
                extra_groups=None if self._user is None else [],
                start_new_session=True,
            )
        return self

    @property
    def pid(self) -> int:
        """The main process's id; the id of its group too."""
        return self._started().pid

    @property
    def running(self) -> bool:
        """Whether the main process lives."""
        return self._popen is not None and self._popen.poll() is None

    @property
    def returncode(self) -> int | None:
        """The main process's exit status, negative for a signal; None while it runs."""
        return self._started().poll()

    def logs(self) -> str:
        """Everything it wrote, over all its starts."""
        return self._log.read_text(errors="replace") if self._log.exists() else ""

    def log_tail(self, lines: int = 40) -> str:
        """The last lines of its log."""
        return "\n".join(self.logs().splitlines()[-lines:])

    def wait_for_log(self, pattern: str, within: float = 20.0) -> re.Match[str]:
        """The first match of the regular expression in what it wrote since its latest start."""

        def written() -> re.Match[str] | None:
            ended = not self.running
            with self._log.open("rb") as log:
                log.seek(self._log_start)
                match = re.search(pattern, log.read().decode(errors="replace"))
            if match is None and ended:
                raise AssertionError(
                    f"{self.name} ended with {self.returncode} and never wrote {pattern!r}:\n"
                    f"{self.log_tail()}"
                )
            return match

        try:
            return eventually(written, within=within, what=f"{pattern!r} in the log")
        except AssertionError as failure:
            failure.add_note(f"the log of {self.name} ends with:\n{self.log_tail()}")
            raise

    def wait(self, within: float = 20.0) -> int:
        """The exit status, once it ends by itself."""
        try:
            return self._started().wait(within)
        except subprocess.TimeoutExpired:
            raise AssertionError(
                f"{self.name} still runs after {within:g} s:\n{self.log_tail()}"
            ) from None

    def send(self, number: int) -> None:
        """Send the main process a signal, if it runs."""
        if self.running:
            self._started().send_signal(number)

    def children(self) -> list[int]:
        """The ids of the processes that it started itself and that live."""
        listed = subprocess.run(
            ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
        )
        pairs = (line.split() for line in listed.stdout.splitlines())
        return [int(pid) for pid, parent in pairs if int(parent) == self.pid]

    def stop(self, within: float = 30.0, *, by: int = signal.SIGTERM) -> int:
        """Ask it to end, wait, then end whatever is left of its group; returns the exit status.

        Raises AssertionError, with everything killed, when it does not end in time.
        """
        self.send(by)
        try:
            return self.wait(within)
        finally:
            self._kill_group()

    def kill(self, *, group: bool = True) -> int:
        """End it by SIGKILL: its group, or the main process alone; returns the exit status."""
        if group:
            self._kill_group()
        else:
            self.send(signal.SIGKILL)
        return self.wait()

    @property
    def may_be_killed(self) -> bool:
        """Whether SIGKILL leaves nothing behind.

        The API and a worker with a port of metrics have a folder in shared memory, and a
        supervisor has processes in groups of their own: these have to be asked.
        """
        has_folder = "ALLOCATION_METRICS_PORT" in self._env
        return not has_folder and not _LEAVE_NOTHING.isdisjoint(self.command)

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except (ProcessLookupError, PermissionError):
            # Nobody is left; macOS says so by the second.
            pass

    def _started(self) -> subprocess.Popen[bytes]:
        if self._popen is None:
            raise RuntimeError(f"{self.name} was never started")
        return self._popen


class Processes:
    """Starts processes that are stopped together; each logs to a file of its name in `folder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.started: list[Process] = []

    def start(self, command: list[str | Path], *, name: str, **options: Any) -> Process:
        """`options` as for Process; two of one name get numbers."""
        number = sum(process.name.split("#")[0] == name for process in self.started)
        log = self._folder / (f"{name}#{number + 1}.log" if number else f"{name}.log")
        process = Process(command, log=log, **options).start()
        self.started.append(process)
        return process

    def stop(self) -> None:
        """End those that run, latest first: by SIGKILL if they leave nothing behind."""
        running = [process for process in reversed(self.started) if process.running]
        for process in running:
            if process.may_be_killed:
                process.kill()
            else:
                process.send(signal.SIGTERM)  # all at once, then they end side by side
        for process in running:
            if process.running:
                process.stop()


def clean_environment() -> dict[str, str]:
    """This process's environment, without settings of services, with this Python's programs first.

    Python's output comes unbuffered, so that a log can be waited for.
    """
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith(_NOT_INHERITED)
    }
    programs = str(Path(sys.executable).parent)
    path = os.pathsep.join([programs, inherited.get("PATH", os.defpath)])
    return inherited | {"PATH": path, "PYTHONUNBUFFERED": "1"}


def _group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid
