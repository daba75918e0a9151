"""Deploys whole systems for the fault matrix, and prints what each scenario had and showed."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from pytest_celery import CeleryBrokerCluster

from tests.faults.load import Load
from tests.faults.proxy import Proxy
from tests.faults.run import Run
from tests.faults.system import Addresses, System
from tests.servers.databases import Databases
from tests.servers.processes import Process

Deploy = Callable[..., Run]


@pytest.fixture
def seed(request: pytest.FixtureRequest) -> int:
    """This test's share of the run's seed."""
    run_seed: int = request.config.option.fault_seed
    return random.Random(f"{run_seed} {request.node.name}").getrandbits(32)


@pytest.fixture
def chance(seed: int) -> random.Random:
    """A seeded chance for the scenario's own choices; the load has another."""
    return random.Random(f"{seed} of the scenario")


@pytest.fixture
def addresses(
    celery_broker_cluster: CeleryBrokerCluster,
    broker_url: str,
    database_url: str,
    postgres: Databases,
    state_dir: Path,
) -> Iterator[Addresses]:
    """A virtual host and three databases for one system."""
    celery_broker_cluster.ready()
    warehouse, notification = postgres.create_database(), postgres.create_database()
    yield Addresses(broker_url, database_url, warehouse, notification, state_dir)
    for url in (warehouse, notification):
        postgres.drop_database(url)


@pytest.fixture
def broker_proxy(addresses: Addresses) -> Iterator[Proxy]:
    """A proxy before the broker."""
    proxy = Proxy(addresses.broker)
    yield proxy
    proxy.close()


@pytest.fixture
def deploy(
    request: pytest.FixtureRequest,
    processes: Callable[..., Process],
    addresses: Addresses,
    seed: int,
    record_property: Callable[[str, object], None],
) -> Iterator[Deploy]:
    """Starts a whole system with a load; options as for System."""
    runs: list[Run] = []

    def deploy(**options: Any) -> Run:
        where = options.pop("addresses", addresses)
        system = System(processes, where, **options)
        load = Load(system, seed)
        run_seed: int = request.config.option.fault_seed
        runs.append(run := Run(system, load, run_seed, record_property))
        system.wait_until_ready()
        load.prepare()
        return run

    yield deploy
    for run in runs:
        run.load.close()
        run.system.close()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Any:
    """A failed scenario says how to repeat it."""
    report = yield
    if report.failed:
        seed = item.config.option.fault_seed
        report.sections.append(("fault seed", f"repeat with --fault-seed={seed}"))
    return report


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The table: what each scenario had, and showed."""
    rows = []
    for outcome in ("passed", "failed"):
        for report in terminalreporter.stats.get(outcome, []):
            facts = dict(report.user_properties)
            if "faults" in facts:
                rows.append((report.nodeid.partition("::")[2], outcome, facts))
    if not rows:
        return
    terminalreporter.section("the fault matrix")
    line = "{:<88} {:>8} {:>6} {:>8} {:>12}  {}"
    head = ("scenario", "commands", "faults", "breaches", "back at work", "")
    terminalreporter.write_line(line.format(*head))
    for name, outcome, facts in rows:
        seconds = facts["seconds"]
        terminalreporter.write_line(
            line.format(
                name.removeprefix("test_").replace("_", " ")[:88],
                facts["commands"],
                facts["faults"],
                facts["breaches"],
                "" if seconds is None else f"{seconds:.1f} s",
                "" if outcome == "passed" else outcome,
            )
        )
    total = [sum(facts[name] for *_, facts in rows) for name in ("commands", "faults")]
    terminalreporter.write_line(line.format("together", *total, "", "", ""))
