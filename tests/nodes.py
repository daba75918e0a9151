"""pytest-celery's nodes on processes: what its clusters expect of a container, and no container."""

import signal as signals
import sys
from collections.abc import Callable
from urllib.parse import urlsplit
from uuid import uuid4

from tests.servers.processes import Process
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.vhosts import Vhosts

StartProcess = Callable[..., Process]


class WorkerProcess:
    """`celery -A APP worker` as the container of a CeleryTestWorker."""

    def __init__(
        self,
        processes: StartProcess,
        *,
        app: str,
        env: dict[str, str],
        name: str = "worker",
        options: tuple[str, ...] = (),
    ) -> None:
        """`processes` starts a process, as the fixture of that name does; `env` is added."""
        self.id = uuid4().hex
        self.name = name
        # The node that pytest-celery's CeleryTestWorker.hostname() expects.
        self._node = f"{name}@{self.id[:12]}"
        self.process = processes(
            # It has no neighbours: to look for them at the start takes a second.
            [
                *(sys.executable, "-m", "celery", "-A", app, "worker", "-n", self._node),
                *("--without-mingle", "--without-gossip", *options),
            ],
            name=name,
            env=env,
        )

    @property
    def celeryconfig(self) -> dict[str, str]:
        return {}

    @property
    def status(self) -> str:
        return "running" if self.process.running else "exited"

    def worker_name(self) -> str:
        return self.name

    def ready(self) -> bool:
        """Waits until the worker says that it is ready."""
        self.process.wait_for_log(rf"{self._node} ready")
        return True

    def logs(self) -> str:
        return self.process.logs()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """By SIGKILL with all its children, by any other signal the main process; waits."""
        number = signals.Signals[signal] if isinstance(signal, str) else signals.Signals(signal)
        if number is signals.SIGKILL:
            self.process.kill()
        else:
            self.process.stop(by=number)

    def restart(self, timeout: float = 60) -> None:
        """Stops the worker if it runs, starts it and waits until it is ready."""
        if self.process.running:
            self.process.stop(timeout)
        self.process.start()
        self.ready()

    def reload(self) -> None:
        """Nothing is cached."""

    def teardown(self) -> None:
        if self.process.running:
            self.process.kill()  # a clean end takes seconds, and has tests of its own


class BrokerServer:
    """One virtual host of a RabbitMQ server as the container of a CeleryTestBroker.

    The server outlives the node. Only a private one can be killed and restarted.
    """

    def __init__(self, server: Vhosts, url: str) -> None:
        self._server = server
        self._url = url
        self.name = "rabbitmq"
        self.id = uuid4().hex

    @property
    def celeryconfig(self) -> dict[str, str]:
        return {"url": self._url, "host_url": self._url, "vhost": urlsplit(self._url).path[1:]}

    @property
    def status(self) -> str:
        return "running" if self._server.answers() else "exited"

    def ready(self) -> bool:
        return self._server.answers()

    def logs(self) -> str:
        return self._private().logs()

    def kill(self, signal: str | int = "SIGKILL") -> None:
        """Ends the whole server: at once by SIGKILL, in order by any other signal."""
        if signal in ("SIGKILL", signals.SIGKILL):
            self._private().kill()
        else:
            self._private().stop()

    def restart(self, timeout: float = 60) -> None:
        """Starts the server again, stopping it first if it runs."""
        server = self._private()
        if server.running:
            server.stop()
        server.start()

    def reload(self) -> None:
        """Nothing is cached."""

    def teardown(self) -> None:
        """The server is the session's."""

    def _private(self) -> PrivateRabbitMQ:
        if not isinstance(self._server, PrivateRabbitMQ):
            raise RuntimeError("the broker of TEST_BROKER_URL is not ours to stop or restart")
        return self._server
