"""Processes that are killed, in every moment of their work, and restarted under load."""

import signal

import pytest

from tests.faults import scale
from tests.faults.conftest import Deploy
from tests.faults.gates import Gate
from tests.faults.system import signal_all

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(420)]


def test_pool_children_killed_before_their_commit(deploy: Deploy) -> None:
    """What they did is rolled back, and done by another."""
    run = deploy()
    gate = Gate(run.system.engine, "outbox", when="NEW.kind = 'event'")

    with run.load.running(scale.RATE):
        for _ in range(scale.times(6)):
            with gate.shut():
                gate.wait_for_somebody()
                signal_all(run.system.children("worker-1"), signal.SIGKILL)
            run.fault("kill -9 of pool children before COMMIT")

    run.prove()
