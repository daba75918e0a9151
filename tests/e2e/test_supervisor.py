"""Many commands under one supervisor: it stops with all of them, also if its output is stuck."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress

import pytest

from allocation.entrypoints.cli.supervisor import Output
from tests.e2e.test_command_line import screen_of
from tests.servers.processes import ROOT, Process, clean_environment
from tests.waiting import eventually

LASTING = "echo here; exec sleep 1000"
STUBBORN = "trap '' TERM; echo here; while :; do sleep 0.1; done"
CHATTY = "while :; do echo x; done"
SUPERVISED = [sys.executable, "-m", "tests.e2e.supervised"]


@pytest.fixture
def supervised(processes: Callable[..., Process]) -> Callable[..., Process]:
    """Starts a supervisor of these commands, with a grace period in seconds."""

    def start(*commands: str, grace: float = 30) -> Process:
        return processes([*SUPERVISED, str(grace), *commands], name="supervised")

    return start


def full_pipe() -> tuple[int, int]:
    """The end to read and the end to write of a pipe that takes nothing more."""
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writing, b"x" * 4096)
    os.set_blocking(writing, True)
    return reading, writing


def read_until(end: bytes, reading: int) -> bytes:
    """What comes out of the pipe, up to this end."""
    said = b""
    while not said.endswith(end):
        said += os.read(reading, 65_536)
    return said


@contextmanager
def into_pipe(
    *commands: str, full: bool = False
) -> Iterator[tuple["subprocess.Popen[bytes]", int]]:
    """A supervisor whose output goes into a pipe, and the end to read, which is not read."""
    reading, writing = full_pipe() if full else os.pipe()
    process = subprocess.Popen(
        [*SUPERVISED, "30", *commands],
        stdout=writing,
        stderr=subprocess.STDOUT,
        cwd=ROOT,
        env=clean_environment(),
        start_new_session=True,
    )
    os.close(writing)
    try:
        yield process, reading
    finally:
        process.kill()
        process.wait()
        with suppress(OSError):
            os.close(reading)


def test_it_prefixes_each_line_and_says_last_that_all_are_ready(
    supervised: Callable[..., Process],
) -> None:
    running = supervised(f"one={LASTING}", f"two={LASTING}")
    running.wait_for_log("Not ready: none")
    running.wait_for_log("one .* here")
    running.wait_for_log("two .* here")

    assert running.stop(by=signal.SIGINT) == 0
    said = [line.partition(" ")[2] for line in running.logs().splitlines()]
    assert said[0] == "system | starting one, two"
    assert sorted(said[-3:]) == [
        "system | SIGINT received: stopping everything",
        "system | one stopped (rc=-15)",
        "system | two stopped (rc=-15)",
    ]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_ends_it_though_nobody_reads_its_output(number: signal.Signals) -> None:
    with into_pipe(f"chatty={CHATTY}", f"lasting={LASTING}", full=True) as (process, _):
        eventually(lambda: len(children(process.pid)) == 2, what="both commands")
        started = children(process.pid)
        process.send_signal(number)

        assert process.wait(20) == 0
    assert [pid for pid in started if is_there(pid)] == []


def test_a_closed_pipe_ends_it_though_nothing_is_written() -> None:
    with into_pipe(f"lasting={LASTING}") as (process, reading):
        eventually(lambda: children(process.pid), what="the command")
        started = children(process.pid)
        os.close(reading)

        assert process.wait(20) == 0
    assert [pid for pid in started if is_there(pid)] == []


def test_what_is_not_read_is_left_out_and_counted() -> None:
    reading, writing = full_pipe()
    output = Output(writing, on_close=lambda: None)

    for number in range(20_000):
        output.say(f"line {number}")
    with ThreadPoolExecutor(1) as other:
        reader = other.submit(read_until, b"END\n", reading)
        output.close()
        os.write(writing, b"END\n")
        *said, _end = reader.result(20).decode().lstrip("x").splitlines()

    [note] = [line for line in said if line.startswith("... ")]
    said.remove(note)
    assert note == f"... {20_000 - len(said)} lines were dropped: the output was not read in time"
    assert said == [f"line {number}" for number in range(len(said))]


def test_a_command_that_does_not_stop_is_killed(supervised: Callable[..., Process]) -> None:
    running = supervised(f"stubborn={STUBBORN}", f"lasting={LASTING}", grace=0.5)
    running.wait_for_log("stubborn .* here")

    assert running.stop(by=signal.SIGTERM) == 0
    assert "stubborn stopped (rc=-9)" in running.logs()
    assert "lasting stopped (rc=-15)" in running.logs()


def test_a_command_that_stops_by_itself_stops_the_others(
    supervised: Callable[..., Process],
) -> None:
    running = supervised("broken=echo why >&2; exit 3", f"lasting={LASTING}")

    assert running.wait() == 1
    assert "broken  | why" in running.logs()
    assert "broken stopped (rc=3)" in running.logs()
    assert "lasting stopped (rc=-15)" in running.logs()


def test_a_terminal_shows_what_is_waited_for() -> None:
    command = [*SUPERVISED, "30", f"one={LASTING}", f"slow?={LASTING}"]

    with screen_of(command, {}) as (process, screen):
        eventually(lambda: "Waiting for slow? (" in screen(), what="the progress line")
        process.send_signal(signal.SIGINT)

        assert process.wait(20) == 0
    assert "Not ready" not in screen()


def children(pid: int) -> list[int]:
    """The processes that it has started."""
    listed = subprocess.run(
        ["ps", "-A", "-o", "pid=,ppid="], capture_output=True, text=True, check=True
    )
    pairs = (line.split() for line in listed.stdout.splitlines())
    return [int(each) for each, parent in pairs if int(parent) == pid]


def is_there(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_what_is_not_ready_in_time_is_named_and_the_rest_is_announced(
    processes: Callable[..., Process],
) -> None:
    process = processes(
        [*SUPERVISED, "30", f"one={LASTING}", f"two?={LASTING}"],
        name="supervised",
        env={"START_TIME": "0.5"},
    )

    process.wait_for_log(r"Not ready: two\?\.")
