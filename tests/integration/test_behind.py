"""Processes that start on a database one migration behind wait for it, and go on by themselves."""

import sys
from collections.abc import Callable

import pytest

from allocation.adapters.sql import migrations
from tests.integration.conftest import BareClient, Service
from tests.integration.test_inbound import counted, tell
from tests.integration.test_resending import holds
from tests.scraping import page, samples
from tests.servers.ports import free_ports
from tests.servers.processes import Process

pytestmark = pytest.mark.long

Start = Callable[..., Process]
SAID = "lacks the schema of this version: run `allocation migrate`"


@pytest.fixture
def behind(service: Service) -> Service:
    migrations.downgrade(service.environment["ALLOCATION_DATABASE_URL"], "0008")
    return service


def migrate(service: Service) -> None:
    migrations.upgrade(service.environment["ALLOCATION_DATABASE_URL"])


def start_worker(start: Start, service: Service) -> Process:
    command = [sys.executable, "-m", "celery", "-A", "allocation", "worker", "--concurrency=1"]
    return start(command, name="worker", env=service.environment)


def test_a_worker_consumes_nothing_before_the_schema_is_there(
    behind: Service, client: BareClient, processes: Start
) -> None:
    sent = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    worker = start_worker(processes, behind)
    worker.wait_for_log(SAID, within=60)
    assert behind.depth("allocation.commands") == 1

    migrate(behind)

    assert behind.outcome(sent, within=60)[0] == "succeeded"
    assert behind.dead_letters() == []
    worker.wait_for_log("celery@.* ready", within=60)
    holds(behind)


def test_a_worker_that_waits_for_the_schema_ends_cleanly(behind: Service, processes: Start) -> None:
    worker = start_worker(processes, behind)
    worker.wait_for_log(SAID, within=60)

    assert worker.stop() == 0


def test_a_worker_whose_database_falls_behind_spends_no_command(
    service: Service, client: BareClient, processes: Start
) -> None:
    worker = start_worker(processes, service)
    worker.wait_for_log("celery@.* ready", within=60)
    migrations.downgrade(service.environment["ALLOCATION_DATABASE_URL"], "0008")

    sent = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    worker.wait_for_log(SAID, within=60)
    migrate(service)

    assert service.outcome(sent, within=60)[0] == "succeeded"
    assert service.dead_letters() == []


def test_relay_and_inbound_wait_for_the_schema_too(behind: Service, processes: Start) -> None:
    [port] = free_ports(1)
    relay = behind.relay()
    inbound = processes(
        [sys.executable, "-m", "allocation", "inbound"],
        name="inbound",
        env=behind.environment | {"ALLOCATION_METRICS_PORT": str(port)},
    )
    tell(behind.broker_url, [counted(1)])
    relay.wait_for_log(SAID, within=60)
    inbound.wait_for_log(SAID, within=60)
    assert samples(page(port))["allocation_inbound_consuming", frozenset()] == 0

    migrate(behind)

    relay.wait_for_log("ready: relaying", within=60)
    inbound.wait_for_log("events were accepted", within=60)
    assert behind.dead_letters("allocation.inbound.dead") == []
