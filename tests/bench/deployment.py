"""The service's processes, run as production runs them, on servers of the bench."""

import os

from kombu import Connection

from tests.bench.servers import Servers, query, run
from tests.servers.processes import Process
from tests.waiting import eventually

COMMANDS = "allocation.commands"
SUBSCRIBERS = ("warehouse.events", "notification.events")

_WORKER = ["-m", "celery", "-A", "allocation", "worker", "--concurrency=2"]
# As in compose.yaml; task events are on by celeryconfig.
_COMMANDS = {
    "worker": _WORKER,
    "worker-2": [*_WORKER, "-n", "second@%h"],
    "relay": ["-m", "allocation", "relay"],
    "warehouse": ["-m", "workers.warehouse"],
    "notification": ["-m", "workers.notification"],
    "api": ["-m", "allocation", "api"],
}
_READY = {
    "worker": r"@\S+ ready",
    "worker-2": r"@\S+ ready",
    "relay": "ready: relaying",
    "warehouse": "ready: consuming",
    "notification": "ready: consuming",
    "api": "The API is ready",
}


def tuned() -> dict[str, str]:
    """The caller's settings of batches: to find out which are best."""
    names = ("ALLOCATION_BATCH_SIZE", "ALLOCATION_LINGER")
    return {name: os.environ[name] for name in names if name in os.environ}


class Deployment:
    """Databases and a virtual host of its own; `name` is for its logs."""

    def __init__(self, servers: Servers, name: str, **settings: str) -> None:
        self._servers = servers
        self._name = name
        self.database = servers.database()
        self.warehouse, self.notification = servers.empty_database(), servers.empty_database()
        self.broker = servers.broker()
        self.environment = {
            "ALLOCATION_DATABASE_URL": self.database,
            "ALLOCATION_BROKER_URL": self.broker,
            "ALLOCATION_STATE_DIR": str(servers.folder / name),
            "WAREHOUSE_DATABASE_URL": self.warehouse,
            "NOTIFICATION_DATABASE_URL": self.notification,
            **tuned(),
            **settings,
        }
        self._processes: dict[str, Process] = {}
        self._asking = Connection(self.broker)
        self._channel = self._asking.channel()
        servers.opened.callback(self.close)

    def start(self, *names: str) -> None:
        """Start these processes together, and wait until all are at work."""
        for name in names:
            process = self._servers.process(
                _COMMANDS[name], f"{self._name}-{name}", self.environment
            )
            self._processes[name] = process.start()
        for name in names:
            self._processes[name].wait_for_log(_READY[name], within=60)

    def stop(self, name: str) -> None:
        self._processes.pop(name).stop(within=60)

    def pids(self, name: str) -> list[int]:
        """A process and its children."""
        process = self._processes[name]
        return [process.pid, *process.children()]

    @property
    def roots(self) -> list[int]:
        """The main processes of the service that run, and of both servers."""
        servers = (self._servers.postgres.pid, self._servers.rabbitmq.pid)
        return [*servers, *(process.pid for process in self._processes.values())]

    def depth(self, queue: str) -> int:
        """Messages that wait in a queue."""
        return self._queue(queue)[0]

    def consumers(self, queue: str) -> int:
        return self._queue(queue)[1]

    def purge(self, *queues: str) -> None:
        for queue in queues:
            self._channel.queue_purge(queue)

    def wait_until_sent(self, within: float = 60) -> None:
        """Wait until the outbox has nothing that was not sent."""
        unsent = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"
        eventually(
            lambda: query(self.database, unsent) == [(0,)], within=within, what="an empty outbox"
        )

    def check(self) -> None:
        """`allocation check`: raises RuntimeError with what it prints when the books are wrong."""
        run("allocation", "check", env=self.environment)

    def close(self) -> None:
        """End everything at once, and drop the databases: nothing of them is needed any more."""
        for process in self._processes.values():
            if process.running:
                process.kill()
        self._asking.release()
        self._servers.rabbitmq.delete_vhost(self.broker)
        for url in (self.database, self.warehouse, self.notification):
            self._servers.drop(url)

    def _queue(self, name: str) -> tuple[int, int]:
        told = self._channel.queue_declare(name, passive=True)
        return told.message_count, told.consumer_count
