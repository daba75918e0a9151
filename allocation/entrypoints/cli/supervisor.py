"""Runs commands side by side, prefixes their output, and stops all when one stops or is signalled.

Output never blocks a command: a paused terminal delays none, and a closed pipe stops all of them.
"""

import errno
import os
import select
import signal
import stat
import subprocess
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, Full, Queue, SimpleQueue

GRACE = 30.0
"""Seconds between SIGTERM and SIGKILL: longer than the worker's own soft shutdown."""

START_TIME = 30.0
"""Seconds to wait for all commands to be ready; then those that are not are named."""

_QUIET_START = 2.0  # seconds without a progress line
_LAST_WORDS = 2.0  # seconds for the rest of the output, after its process or all have ended
_TICK = 0.1  # seconds; the polling interval
_LONGEST_LINE = 65_536  # bytes
_MOST_LINES = 10_000
_GONE = (errno.EPIPE, errno.EIO, errno.EBADF)  # the reader, or the terminal
_CLEAR = "\r\x1b[K"
_COLOURS = (36, 33, 32, 35, 31, 34)
"""Of the names on a terminal: cyan, yellow, green, magenta, red, blue."""


@dataclass(frozen=True, slots=True)
class Command:
    """A process to run, once those named in `after` are ready.

    `is_ready` is called in a thread, with the time.time() of the start.
    """

    name: str
    arguments: Sequence[str]
    environment: Mapping[str, str]
    is_ready: Callable[[float], bool] = lambda _started: True
    after: tuple[str, ...] = ()


class Output:
    """Writes lines to a file descriptor in a thread of its own, as fast as they are read.

    Lines beyond a backlog of _MOST_LINES are dropped and counted.
    """

    def __init__(self, target: int, on_close: Callable[[], None]) -> None:
        self._target = target
        self._on_close = on_close
        self.is_terminal = os.isatty(target)
        # Lines to write, and a new status line or None to leave it; None at the end.
        self._waiting: Queue[tuple[str, str | None] | None] = Queue(_MOST_LINES)
        self._left_out = 0
        self._writer = threading.Thread(target=self._write_all, daemon=True)
        self._writer.start()
        kind = os.fstat(target).st_mode
        if stat.S_ISFIFO(kind) or stat.S_ISSOCK(kind):
            threading.Thread(target=self._watch, daemon=True).start()

    def say(self, text: str) -> None:
        """Write these lines."""
        try:
            self._waiting.put_nowait((f"{text}\n", None))
        except Full:
            self._left_out += 1

    def show(self, text: str) -> None:
        """Show a status line below the output, in place of the last one; only on a terminal."""
        if self.is_terminal and not self._waiting.full():
            # A line that wraps could not be cleared.
            self._waiting.put(("", text[: os.get_terminal_size(self._target).columns - 1]))

    def close(self) -> None:
        """Write what is left, unless that takes too long."""
        try:
            self._waiting.put(None, timeout=_LAST_WORDS)
        except Full:
            return
        self._writer.join(_LAST_WORDS)

    def _write_all(self) -> None:
        shown = ""
        while (item := self._waiting.get()) is not None:
            text, status = item
            clear = _CLEAR if shown else ""
            shown = shown if status is None else status
            if left_out := self._left_out:
                self._left_out -= left_out
                text += f"... {left_out} lines were dropped: the output was not read in time\n"
            try:
                self._write(f"{clear}{text}{shown}".encode(errors="replace"))
            except OSError as error:
                if error.errno in _GONE:
                    self._on_close()
                    return
                self._left_out += 1  # such as a full disk

    def _write(self, data: bytes) -> None:
        while data:
            try:
                data = data[os.write(self._target, data) :]
            except BlockingIOError:
                select.select([], [self._target], [])

    def _watch(self) -> None:
        """Notice a closed pipe at once, not only when the next line is written."""
        poller = select.poll()
        poller.register(self._target, 0)  # errors and hang-ups are reported anyway
        poller.poll()
        self._on_close()


@dataclass
class Supervisor:
    """`broke` is the name and exit status of the command that stopped by itself, if one did."""

    commands: Sequence[Command]
    announce: Callable[[Sequence[str]], str]
    """Returns what to print when all commands are ready or START_TIME is over, given the names of
    the commands that are not ready."""
    target: int = 1
    inherited: Sequence[int] = ()
    """File descriptors that the commands inherit."""
    grace: float = GRACE
    start_time: float = START_TIME

    broke: tuple[str, int] | None = None
    _started: list[str] = field(default_factory=list)
    _ready: set[str] = field(default_factory=set)
    _running: dict[str, "subprocess.Popen[bytes]"] = field(default_factory=dict)
    _stopping: bool = False
    _late: bool = False
    _began: float = 0.0
    """When starting or stopping began, by time.monotonic."""
    # What the main thread does next. Signal handlers may call `SimpleQueue.put`: it is reentrant.
    _actions: SimpleQueue[Callable[[], None]] = field(default_factory=SimpleQueue)

    def run(self) -> None:
        """Run the commands until one stops, a signal comes, or the output is closed."""
        self._output = Output(
            self.target,
            lambda: self._actions.put(partial(self._stop, "the output is closed")),
        )
        self._width = max(len("system"), *(len(command.name) for command in self.commands))
        before = {number: signal.getsignal(number) for number in _signals()}
        for number in before:
            signal.signal(number, self._on_signal)
        try:
            self._began = time.monotonic()
            names = [command.name for command in self.commands]
            self._say("system", f"starting {', '.join(names)}")
            self._start_allowed()
            threading.Thread(target=self._poll_readiness, daemon=True).start()
            while self._running or not self._stopping:
                self._act()
        finally:
            for process in self._running.values():  # a command could not be started
                process.terminate()
            self._output.close()
            for number, handler in before.items():
                signal.signal(number, handler)

    def _act(self) -> None:
        """Run the next action, or check the deadlines."""
        waiting = self._waiting()
        try:
            self._actions.get(timeout=_TICK if waiting or self._stopping else None)()
        except Empty:
            pass
        now = time.monotonic()
        if self._stopping:
            if now > self._began + self.grace:
                self._kill()
        elif waiting and now > self._began + _QUIET_START:
            self._output.show(f"Waiting for {', '.join(waiting)} ({now - self._began:.0f} s) ...")

    def _on_signal(self, number: int, _frame: object) -> None:
        reason = f"{signal.Signals(number).name} received"
        self._actions.put(partial(self._stop, reason))

    # Starting

    def _start_allowed(self, *, all_of_them: bool = False) -> None:
        waiting = self._waiting()
        for command in self.commands:
            allowed = all_of_them or not any(name in waiting for name in command.after)
            if allowed and command.name not in self._started:
                self._start(command)

    def _start(self, command: Command) -> None:
        reading, writing = os.pipe()
        process = subprocess.Popen(  # noqa: S603 - our own commands
            command.arguments,
            env=command.environment,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.STDOUT,
            # Ctrl-C goes to the supervisor alone: each process stops its own children.
            start_new_session=True,
            pass_fds=self.inherited,
        )
        os.close(writing)
        self._started.append(command.name)
        self._running[command.name] = process
        reader = threading.Thread(target=self._read, args=(command.name, reading), daemon=True)
        reader.start()
        threading.Thread(
            target=self._wait_for, args=(command.name, process, reader), daemon=True
        ).start()

    def _read(self, name: str, pipe: int) -> None:
        # Not through a file object: its lock would outlive a thread that still waits at the end.
        rest = b""
        while data := os.read(pipe, _LONGEST_LINE):
            *lines, rest = (rest + data).split(b"\n")
            if len(rest) > _LONGEST_LINE:
                lines, rest = [*lines, rest], b""
            for line in lines:
                self._say(name, line.decode(errors="replace"))
        if rest:
            self._say(name, rest.decode(errors="replace"))
        os.close(pipe)

    def _wait_for(
        self, name: str, process: "subprocess.Popen[bytes]", reader: threading.Thread
    ) -> None:
        process.wait()
        reader.join(_LAST_WORDS)  # takes longer only if a child of the process still runs
        self._actions.put(partial(self._ended, name, process.returncode))

    def _poll_readiness(self) -> None:
        started = time.time()
        while (waiting := self._waiting()) and not self._stopping:
            for command in self.commands:
                may_be = command.name in waiting and command.name in self._started
                if may_be and command.is_ready(started):
                    self._actions.put(partial(self._became_ready, command.name))
            if not self._late and time.time() > started + self.start_time:
                self._late = True
                self._actions.put(partial(self._give_up_waiting, waiting))
            time.sleep(_TICK)  # polls: the processes can't call back

    def _became_ready(self, name: str) -> None:
        if name in self._ready or self._stopping:
            return
        self._ready.add(name)
        self._start_allowed(all_of_them=self._late)
        if not self._waiting():
            self._output.show("")
            self._output.say(self.announce(()))

    def _give_up_waiting(self, waiting: Sequence[str]) -> None:
        if not self._stopping:
            self._start_allowed(all_of_them=True)
            self._output.say(self.announce(waiting))

    def _waiting(self) -> list[str]:
        """The names of those that are not ready yet."""
        return [command.name for command in self.commands if command.name not in self._ready]

    # Stopping

    def _stop(self, reason: str) -> None:
        if self._stopping:
            return
        self._stopping = True
        self._began = time.monotonic()
        self._output.show("")
        self._say("system", f"{reason}: stopping everything")
        for process in self._running.values():
            process.terminate()

    def _kill(self) -> None:
        for process in self._running.values():
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:  # it has just ended
                pass

    def _ended(self, name: str, returncode: int) -> None:
        del self._running[name]
        self._say("system", f"{name} stopped (rc={returncode})")
        if not self._stopping:
            self.broke = (name, returncode)
            self._stop(f"{name} has stopped")

    def _say(self, name: str, line: str) -> None:
        now = time.strftime("%H:%M:%S")
        prefix = f"{now} {name:{self._width}} | "
        if self._output.is_terminal and name in self._started:
            colour = _COLOURS[self._started.index(name) % len(_COLOURS)]
            prefix = f"\x1b[{colour}m{prefix}\x1b[0m"
        self._output.say(f"{prefix}{line}")


def _signals() -> list[signal.Signals]:
    """The signals that stop everything; SIGHUP only if it is not ignored, as by `nohup`."""
    ignores = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    return [signal.SIGTERM, signal.SIGINT, *([] if ignores else [signal.SIGHUP])]
