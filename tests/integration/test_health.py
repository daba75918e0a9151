"""The health checks of the containers, against real processes that live, hang and die."""

import os
import signal
import sys
from collections.abc import Callable

import pytest

from tests.integration.conftest import Service
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long


@pytest.fixture
def healthy(service: Service) -> Callable[[str], tuple[int, str]]:
    """Runs a check: its exit status and what it says."""
    [nobodys] = free_ports(1)

    def ask(name: str) -> tuple[int, str]:
        command = [sys.executable, "-m", "allocation.health", name]
        environment = service.environment | {"ALLOCATION_PORT": str(nobodys)}
        asked: Process = service.start_process(command, name="health", env=environment)
        return asked.wait(), asked.logs()

    return ask


def test_a_process_that_never_lived_is_unhealthy(
    healthy: Callable[[str], tuple[int, str]],
) -> None:
    """And the check says what it looked for."""
    assert healthy("relay") == (1, "relay has not sent a heartbeat yet\n")


@pytest.mark.parametrize("name", ["relay", "inbound"])
def test_a_process_that_works_is_healthy_and_one_that_hangs_is_not(
    service: Service, healthy: Callable[[str], tuple[int, str]], name: str
) -> None:
    """Its heartbeat grows old."""
    process: Process = getattr(service, name)()
    process.wait_for_log("ready: ")
    assert healthy(name) == (0, "")

    process.send(signal.SIGSTOP)
    sign = f"{service.environment['ALLOCATION_STATE_DIR']}/alive/{name}"
    hour_ago = os.stat(sign).st_mtime - 3600
    os.utime(sign, (hour_ago, hour_ago))

    status, said = healthy(name)
    assert (status, said.startswith(f"{name} sent its last heartbeat 36")) == (1, True)
    process.send(signal.SIGCONT)
    eventually(lambda: healthy(name)[0] == 0, what="a healthy process again")


def test_an_api_that_cannot_be_reached_is_unhealthy(
    healthy: Callable[[str], tuple[int, str]],
) -> None:
    """Nothing listens there."""
    status, said = healthy("api")

    assert (status, "/readyz" in said) == (1, True)


def test_a_worker_that_gives_no_answer_is_unhealthy(
    service: Service, healthy: Callable[[str], tuple[int, str]]
) -> None:
    """It is asked over the broker, by its name on this machine."""
    assert healthy("worker")[0] == 1
    worker = service.start_process(
        [sys.executable, "-m", "celery", "-A", "allocation", "worker", "-c1"],
        name="worker",
        env=service.environment,
    )
    worker.wait_for_log("ready")

    assert healthy("worker") == (0, "")
