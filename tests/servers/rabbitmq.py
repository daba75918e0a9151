"""A private RabbitMQ node on free loopback ports, in a temporary folder."""

import secrets
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.processes import Process, clean_environment
from tests.servers.programs import find_epmd, find_rabbitmq
from tests.servers.vhosts import Vhosts
from tests.waiting import eventually

_ONLY_LOOPBACK = "-kernel inet_dist_use_interface {127,0,0,1}"
# Idle schedulers sleep at once instead of spinning: the tests share the machine with many nodes.
_IDLE_SLEEPS = "+sbwt none +sbwtdcpu none +sbwtdio none"

_SETTLED = 15.0  # seconds after its start, by then every queue has taken up its work


class PrivateRabbitMQ(Vhosts):
    """A node of our own, which can be stopped, killed and started again over the same data.

    Its port mapper (epmd) is its own too, so nothing of it meets the machine's other nodes.
    """

    _password: str
    _epmd: Process

    def __init__(
        self,
        say: Callable[[str], None] = print,
        beside: "PrivateRabbitMQ | None" = None,
        settings: Mapping[str, object] | None = None,
        plugins: Sequence[str] = ("rabbitmq_management", "rabbitmq_consistent_hash_exchange"),
    ) -> None:
        """`say` is told when something has to be installed first; `beside`: it joins that node.

        A node beside another one is started after it, uses its port mapper, and is removed before.
        `settings` are added to its configuration.
        """
        self._programs = find_rabbitmq(say)
        self._folder = Path(tempfile.mkdtemp(prefix="allocation-rabbitmq-"))
        epmd_port, dist_port, port, management_port = free_ports(4)
        self._password = beside._password if beside else secrets.token_hex(16)
        super().__init__(
            f"amqp://tests:{self._password}@{LOOPBACK}:{port}//",
            f"http://{LOOPBACK}:{management_port}",
        )
        self._env = self._environment(epmd_port, dist_port)
        self._beside = beside
        self._plugins = plugins
        self._write_files(port, management_port, self._password, settings or {})
        self._started = 0.0
        # Virtual hosts made since then, and older ones that are to be deleted.
        self._young: set[str] = set()
        self._left: list[str] = []
        if beside:
            # The secret that the nodes share, and where they find each other.
            self._env |= {name: beside._env[name] for name in ("HOME", "ERL_EPMD_PORT")}
        self._epmd = (
            beside._epmd
            if beside
            else Process(
                [find_epmd(), "-port", str(epmd_port), "-address", LOOPBACK],
                log=self._folder / "epmd.log",
                cwd=self._folder,
            )
        )
        self._node = Process(
            [self._programs / "rabbitmq-server"],
            log=self._folder / "rabbitmq.log",
            env=self._env,
            cwd=self._folder,
        )

    @property
    def pid(self) -> int:
        """The node's process id."""
        return self._node.pid

    @property
    def running(self) -> bool:
        """Whether the node's process lives."""
        return self._node.running

    def start(self) -> None:
        """Start it, and wait until it takes connections: about 7 s."""

        def ready() -> bool:
            if not self._node.running:
                raise AssertionError(
                    f"RabbitMQ ended with {self._node.returncode}:\n{self._node.log_tail()}"
                )
            return self.answers()

        if not self._epmd.running:
            self._epmd.start()
        self._young.clear()
        self._node.start()
        try:
            eventually(ready, within=60, what="RabbitMQ to take connections")
        except AssertionError as failure:
            failure.add_note(self._node.log_tail())
            raise
        self._started = time.monotonic()

    def stop(self) -> None:
        """End it in order: clients are told, everything is written. Up to 10 s."""
        self._node.stop()

    def kill(self) -> None:
        """SIGKILL, as when the machine's memory runs out; every queue outlives it."""
        self._wait_for_disk()
        self._node.kill()

    def create_vhost(self) -> str:
        while self._left and self._settled:
            super().delete_vhost(self._left.pop())
        url = super().create_vhost()
        self._young.add(url)
        return url

    def delete_vhost(self, url: str) -> None:
        """As for Vhosts; one that is older than the node's last start goes a while after that.

        RabbitMQ 3.10 dead-letters nothing any more, in no virtual host, and lets nobody declare a
        queue that would, once a queue is deleted while it takes up its work after a start.
        """
        if url in self._young or self._settled:
            super().delete_vhost(url)
        else:
            self._left.append(url)

    @property
    def _settled(self) -> bool:
        return time.monotonic() - self._started > _SETTLED

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def logs(self) -> str:
        """Everything the node wrote, over all its starts."""
        return self._node.logs()

    def ctl(self, *args: str) -> str:
        """What `rabbitmqctl ARGS` prints about this node; about 1 s. Raises when it fails."""
        done = subprocess.run(
            [self._programs / "rabbitmqctl", "--quiet", *args],
            env=clean_environment() | self._env,
            cwd=self._folder,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"rabbitmqctl {' '.join(args)}: {done.stdout}{done.stderr}")
        return done.stdout

    def remove(self) -> None:
        """End it at once, and remove its folder: nobody needs its data any more."""
        try:
            for process in (self._node, *([] if self._beside else [self._epmd])):
                if process.running:
                    process.kill()
        finally:
            shutil.rmtree(self._folder)

    def _wait_for_disk(self) -> None:
        """Wait until every quorum queue outlives a kill: about 1 s after it was declared.

        RabbitMQ writes the register of its quorum queues half a second late, and a queue that is
        missing there after a kill stays unusable.
        """
        queues: Any = self.api("GET", "/api/queues?disable_stats=true")
        names = [
            f"{queue['vhost']}_{queue['name']}".encode()
            for queue in queues
            if self._env["RABBITMQ_NODENAME"] in queue.get("members", ())
        ]
        registers = list((self._folder / "data").rglob("names.dets"))

        def written() -> bool:
            known = b"".join(register.read_bytes() for register in registers)
            return all(name in known for name in names)

        eventually(written, what=f"{len(names)} quorum queues in {registers}")

    def _environment(self, epmd_port: int, dist_port: int) -> dict[str, str]:
        folder = self._folder
        return {
            # Where the node and rabbitmqctl find the secret that they share.
            "HOME": str(folder),
            "ERL_EPMD_PORT": str(epmd_port),
            "ERL_EPMD_ADDRESS": LOOPBACK,
            "RABBITMQ_NODENAME": f"tests-{dist_port}@localhost",
            "RABBITMQ_DIST_PORT": str(dist_port),
            "RABBITMQ_MNESIA_BASE": str(folder / "data"),
            "RABBITMQ_LOG_BASE": str(folder / "log"),
            "RABBITMQ_LOGS": "-",
            # The machine's own settings stay out.
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
            "RABBITMQ_CONFIG_FILES": str(folder / "conf.d"),
            "RABBITMQ_ADVANCED_CONFIG_FILE": str(folder / "advanced.config"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"{_ONLY_LOOPBACK} {_IDLE_SLEEPS}",
            "RABBITMQ_CTL_ERL_ARGS": _ONLY_LOOPBACK,
            # The start script then becomes the server, instead of watching over it: one pid.
            "RUNNING_UNDER_SYSTEMD": "true",
        }

    def _write_files(
        self, port: int, management_port: int, password: str, more: Mapping[str, object]
    ) -> None:
        settings: dict[str, object] = {
            "listeners.tcp.1": f"{LOOPBACK}:{port}",
            "management.tcp.ip": LOOPBACK,
            "management.tcp.port": management_port,
            # The API is here for virtual hosts; its figures would cost time.
            "management_agent.disable_metrics_collector": "true",
            "default_user": "tests",
            "default_pass": password,
            **more,
        }
        if self._beside:
            for number, node in enumerate((self._beside, self)):
                name = node._env["RABBITMQ_NODENAME"]
                settings[f"cluster_formation.classic_config.nodes.{number}"] = name
        for folder in ("data", "log", "conf.d"):
            (self._folder / folder).mkdir()
        lines = [f"{name} = {value}\n" for name, value in settings.items()]
        (self._folder / "rabbitmq.conf").write_text("".join(lines))
        (self._folder / "advanced.config").write_text("[].\n")
        (self._folder / "plugins").write_text(f"[{','.join(self._plugins)}].\n")
        (self._folder / "env.conf").touch()
