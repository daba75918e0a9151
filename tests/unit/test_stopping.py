"""SIGTERM stops relay, inbound and subscribers, whatever their main thread is doing just then."""

import subprocess
import sys

import pytest

# In the process itself, on a moment that a running one meets only now and then.
_PROGRAM = """
import os, signal
from {module} import stop_signal

stop = stop_signal()
with stop._cond:  # held by `stop.wait` for a moment at its beginning and its end
    os.kill(os.getpid(), signal.SIGTERM)
assert stop.wait(10)
"""


@pytest.mark.parametrize("module", ["allocation.messaging.lifecycle"])
def test_a_signal_while_the_main_thread_holds_the_events_lock_stops_it(module: str) -> None:
    program = [sys.executable, "-c", _PROGRAM.format(module=module)]

    ended = subprocess.run(program, timeout=30, check=False)

    assert ended.returncode == 0
