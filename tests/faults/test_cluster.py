"""Three RabbitMQ nodes on one machine; one of them is lost under load."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from tests.faults import scale
from tests.faults.conftest import Deploy
from tests.faults.proxy import Proxy
from tests.faults.system import Addresses
from tests.servers.rabbitmq import PrivateRabbitMQ

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]


@pytest.fixture
def cluster(say: Callable[[str], None]) -> Iterator[list[PrivateRabbitMQ]]:
    """Three nodes, joined."""
    first = PrivateRabbitMQ(say)
    nodes = [first, *(PrivateRabbitMQ(say, beside=first) for _ in range(2))]
    try:
        first.start()
        with ThreadPoolExecutor() as threads:
            list(threads.map(PrivateRabbitMQ.start, nodes[1:]))
        yield nodes
    finally:
        for node in reversed(nodes):
            node.remove()


@pytest.fixture
def front(cluster: list[PrivateRabbitMQ]) -> Iterator[Proxy]:
    """One address for the cluster: it leads to the first node that answers."""
    url = cluster[0].create_vhost()
    parts = [urlsplit(node.url) for node in cluster]
    proxy = Proxy(url, [(str(part.hostname), int(part.port or 0)) for part in parts])
    yield proxy
    proxy.close()


def test_a_cluster_that_loses_one_node(
    deploy: Deploy, addresses: Addresses, cluster: list[PrivateRabbitMQ], front: Proxy
) -> None:
    """The node that everybody is connected to; then, when it is back, the next one."""
    run = deploy(addresses=replace(addresses, broker=front.url))
    run.load.send(scale.commands(200))

    with run.load.running(scale.RATE):
        for node in cluster[:2]:
            node.kill()
            run.fault("one node of three lost")
            assert run.back_at_work() < scale.BACK_AT_WORK
            node.start()

    run.prove()
