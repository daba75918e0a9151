"""Connections that are cut at the worst moment, swallow everything, or trickle."""

import time
from collections.abc import Iterator

import pytest

from tests.faults import scale
from tests.faults.conftest import Deploy
from tests.faults.proxy import Commits, Proxy
from tests.faults.system import Addresses
from tests.waiting import eventually

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]

BLACK_HOLE = 40.0  # seconds; the broker and the worker each notice after two beats of 15 s
TRICKLE = 25.0


@pytest.fixture
def commits() -> Commits:
    """Cuts at every third COMMIT while it is active."""
    return Commits(every=3)


@pytest.fixture
def database_proxy(addresses: Addresses, commits: Commits) -> Iterator[Proxy]:
    """A proxy before the allocation database, which watches for COMMITs."""
    proxy = Proxy(addresses.allocation, watch=commits)
    yield proxy
    proxy.close()


def test_connections_cut_after_the_commit_and_before_its_answer(
    deploy: Deploy, database_proxy: Proxy, commits: Commits
) -> None:
    """The worker can't know whether it is committed; its command comes again, and is known."""
    run = deploy(environments={"worker-1": {"ALLOCATION_DATABASE_URL": database_proxy.url}})

    with run.load.running(scale.RATE):
        commits.active = True
        eventually(lambda: commits.cuts >= scale.times(15), within=120, what="cut connections")
        commits.active = False
        run.fault("connection cut after COMMIT", commits.cuts)

    run.prove()


def test_a_black_hole_between_worker_and_broker(deploy: Deploy, broker_proxy: Proxy) -> None:
    """Nobody is told; both sides notice by the missing beats, and the broker delivers again."""
    run = deploy(environments={"worker-1": {"ALLOCATION_BROKER_URL": broker_proxy.url}})

    with run.load.running(scale.RATE / 5):
        broker_proxy.hold()
        time.sleep(BLACK_HOLE)  # the length of the outage is the fault
        broker_proxy.let_go()
        run.fault("network black hole")

    run.prove()


def test_one_byte_a_second_between_worker_and_broker(deploy: Deploy, broker_proxy: Proxy) -> None:
    """A connection that is neither dead nor alive."""
    run = deploy(environments={"worker-1": {"ALLOCATION_BROKER_URL": broker_proxy.url}})

    with run.load.running(scale.RATE / 5):
        broker_proxy.trickle(True)
        time.sleep(TRICKLE)  # the length of the outage is the fault
        broker_proxy.trickle(False)
        run.fault("one byte a second")

    run.prove()
