"""One whole deployed system for a test: databases, broker, and the processes under a supervisor."""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from kombu import Connection
from pytest_celery import CeleryTestWorker, CeleryWorkerCluster
from sqlalchemy import Engine

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import database
from allocation.entrypoints.cli.partition_change import change
from tests.nodes import WorkerProcess
from tests.servers.processes import Process
from tests.waiting import eventually

READY = {
    "worker": r"@\S+ ready",
    "relay": "ready: relaying",
    "warehouse": "ready: consuming",
    "notification": "ready: consuming",
}
START_TIME = 90.0  # seconds, on a machine that is busy with other things
GRACE = {"worker": 60.0}  # seconds that compose.yaml gives between SIGTERM and SIGKILL
GRACE_OF_OTHERS = 30.0


@dataclass(frozen=True)
class Addresses:
    """Where the broker and the three databases are."""

    broker: str
    allocation: str
    warehouse: str
    notification: str
    state_dir: Path

    def environment(self) -> dict[str, str]:
        return {
            "ALLOCATION_BROKER_URL": self.broker,
            "ALLOCATION_DATABASE_URL": self.allocation,
            "ALLOCATION_STATE_DIR": str(self.state_dir),
            "WAREHOUSE_DATABASE_URL": self.warehouse,
            "NOTIFICATION_DATABASE_URL": self.notification,
        }


@dataclass
class Member:
    """One process of the system; its lock is held by whoever ends or starts it."""

    process: Process
    ready: str
    supervised: bool = True
    restarts: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)


class System:
    """The processes as deployed, each started again when it ends, as a container engine does.

    `celery_app` and `modules` replace parts for the negative controls; `environments` adds to the
    environment of a member by its name: worker-1, worker-2 ..., relay, warehouse, notification.
    """

    def __init__(
        self,
        start_process: Callable[..., Process],
        addresses: Addresses,
        *,
        workers: int = 1,
        concurrency: int = 2,
        celery_app: str = "allocation",
        modules: Mapping[str, str] | None = None,
        environments: Mapping[str, Mapping[str, str]] | None = None,
        partitions: int = 1,
    ) -> None:
        self.addresses = addresses
        self.partitions = 1
        self.engine: Engine = database.engine(addresses.allocation)
        with Connection(addresses.broker) as connection:
            topology.declare(connection)
        if partitions > 1:
            self.divide(partitions)
        environments = environments or {}
        env = addresses.environment()
        nodes = [
            WorkerProcess(
                start_process,
                app=celery_app,
                name=f"worker-{number}",
                options=(f"--concurrency={concurrency}",),
                env=env | dict(environments.get(f"worker-{number}", {})),
            )
            for number in range(1, workers + 1)
        ]
        self.workers = CeleryWorkerCluster(*(CeleryTestWorker(node, app=None) for node in nodes))
        self.members = {node.name: Member(node.process, READY["worker"]) for node in nodes}
        commands = {
            "relay": ["-m", "allocation", "relay"],
            "warehouse": ["-m", "workers.warehouse"],
            "notification": ["-m", "workers.notification"],
        } | {name: ["-m", module] for name, module in (modules or {}).items()}
        for name, command in commands.items():
            process = start_process(
                [sys.executable, *command], name=name, env=env | dict(environments.get(name, {}))
            )
            self.members[name] = Member(process, READY[name])
        self.warehouse: Engine = database.engine(addresses.warehouse)
        self.notification: Engine = database.engine(addresses.notification)
        self._stop = threading.Event()
        self._supervisor = threading.Thread(target=self._supervise, name="supervisor")
        self._supervisor.start()

    def divide(self, partitions: int) -> None:
        """Change the number of partitions; returns once the workers have decided what was there."""
        with Connection(self.addresses.broker) as connection:
            topology.declare(connection, partitioned=True)
            change(connection, self.engine, partitions, tell=lambda sentence: None)
        self.partitions = partitions

    @property
    def worker_names(self) -> list[str]:
        return [name for name in self.members if name.startswith("worker")]

    def wait_until_ready(self, *names: str) -> None:
        """Wait until these members, or all, are at work since their latest start."""
        for name in names or self.members:
            process = self.members[name].process
            eventually(lambda: process.running, what=f"the supervisor to start {name}")  # noqa: B023 - asked at once
            process.wait_for_log(self.members[name].ready, within=START_TIME)

    def kill(self, name: str) -> None:
        """SIGKILL with all its children; the supervisor starts it again."""
        member = self.members[name]
        with member.lock:
            member.process.kill()

    def children(self, name: str) -> list[int]:
        """The pool processes of a worker."""
        return self.members[name].process.children()

    @contextmanager
    def down(self, name: str) -> Iterator[None]:
        """Killed, and not started again before the end of the block."""
        member = self.members[name]
        with member.lock:
            member.supervised = False
            member.process.kill()
        try:
            yield
        finally:
            member.supervised = True

    @contextmanager
    def frozen(self, name: str) -> Iterator[None]:
        """Stopped by SIGSTOP in the midst of whatever it does, children not included."""
        process = self.members[name].process
        process.send(signal.SIGSTOP)
        try:
            yield
        finally:
            process.send(signal.SIGCONT)

    def roll(self, name: str) -> float:
        """SIGTERM, wait for its end, start it again and wait until it is ready.

        Returns the seconds from the signal to the end; raises when the grace is over.
        """
        member = self.members[name]
        with member.lock:
            begun = time.monotonic()
            member.process.stop(GRACE.get(name.partition("-")[0], GRACE_OF_OTHERS))
            took = time.monotonic() - begun
            member.process.start()
        self.wait_until_ready(name)
        return took

    def logs(self) -> dict[str, str]:
        """What each member wrote, over all its starts."""
        return {name: member.process.logs() for name, member in self.members.items()}

    def close(self) -> None:
        """End every process at once: nothing of them is needed any more."""
        self._stop.set()
        self._supervisor.join()
        for member in self.members.values():
            if member.process.running:
                member.process.send(signal.SIGCONT)
                member.process.kill()
        for engine in (self.engine, self.warehouse, self.notification):
            engine.dispose()

    def _supervise(self) -> None:
        while not self._stop.wait(0.2):
            for member in self.members.values():
                with member.lock:
                    if member.supervised and not member.process.running:
                        member.restarts += 1
                        member.process.start()


def signal_all(pids: list[int], number: int) -> None:
    """Send the signal to each that still lives."""
    for pid in pids:
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass
