"""Negative controls: with a guarantee taken out, the same faults must break the promises."""

import signal

import pytest

from tests.faults import scale
from tests.faults.conftest import Deploy
from tests.faults.gates import Gate
from tests.faults.run import Run
from tests.faults.system import signal_all
from tests.faults.test_messages import middlemen
from tests.faults.test_processes import AN_EVENT, committed
from tests.waiting import eventually

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(300)]

CONTROLS = "tests.faults.controls"
STANDSTILL = 25.0
"""Seconds: what is lost never comes. Celery notices a killed process of the pool after ten."""


def promises_broken(run: Run) -> set[str]:
    """By their numbers; the run stands in the table with its breaches, as it must have some."""
    run.load.flush()
    found = run.breaches(standstill=STANDSTILL)
    run.record(len(found), None)
    return {breach.promise for breach in found}


def kill_before_commit(run: Run) -> None:
    gate = Gate(run.system.engine, "outbox", when=AN_EVENT)
    with run.load.running(scale.RATE):
        for _ in range(3):
            with gate.shut():
                gate.wait_for_somebody()
                signal_all(run.system.children("worker-1"), signal.SIGKILL)
                gate.cut_off()  # the message that waits has the COMMIT, too
            run.fault("kill -9 of pool children before COMMIT")


def kill_after_commit(run: Run) -> None:
    gate = Gate(run.system.engine, "outbox", deferred=True, when=AN_EVENT)
    with run.load.running(scale.RATE):
        for _ in range(3):
            with gate.shut():
                gate.wait_for_somebody()
                before = committed(run)
                children = run.system.children("worker-1")
                signal_all(children, signal.SIGSTOP)
            eventually(lambda count=before: committed(run) > count, what="the COMMIT")  # type: ignore[misc]
            signal_all(children, signal.SIGKILL)
            run.fault("kill -9 of pool children after COMMIT")


def test_with_early_acks_commands_are_lost(deploy: Deploy) -> None:
    """The broker forgets what a killed child had in its hands."""
    run = deploy(celery_app=f"{CONTROLS}.early_acks")

    kill_before_commit(run)

    assert "I5" in promises_broken(run)


def test_without_the_inbox_commands_take_effect_twice(deploy: Deploy) -> None:
    """What was given up comes back, what was decided is decided again."""
    run = deploy(celery_app=f"{CONTROLS}.without_inbox")

    with middlemen(run, copies=2, longest_delay=1.0):
        run.load.send(scale.commands(200), rate=scale.RATE)
        run.settle(standstill=STANDSTILL)
        run.fault("every message duplicated")

    assert "I2" in promises_broken(run)


def test_without_the_relay_events_are_lost(deploy: Deploy) -> None:
    """A worker that dies between COMMIT and publish tells nobody."""
    run = deploy(celery_app=f"{CONTROLS}.without_relay")

    kill_after_commit(run)

    assert "I3" in promises_broken(run)
