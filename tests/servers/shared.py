"""One PostgreSQL and one RabbitMQ for all processes of a test run.

The first test that needs a server starts it; it ends with the run. Each server has a keeper: a
process that starts it, and removes it as soon as the run's lock is free. The run's main process
holds that lock until its end, and the kernel frees it even if the process is killed.
"""

import fcntl
import json
import shutil
import signal
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from tests.servers.databases import Databases
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import ROOT
from tests.servers.programs import find_rabbitmq
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.vhosts import Vhosts
from tests.waiting import eventually

_TEMPLATE = "template-"


class Run:
    """What the processes of one run share: a folder, and the servers of which it has the URLs."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def postgres(self) -> Databases:
        """The run's PostgreSQL, started if it is not there yet."""
        (url,) = self._server("postgres")
        return Databases(url)

    def rabbitmq(self, say: Callable[[str], None]) -> Vhosts:
        """The run's RabbitMQ, started if it is not there yet, and installed if it is missing."""
        find_rabbitmq(say)
        url, management = self._server("rabbitmq")
        return Vhosts(url, management)

    def once(self, name: str, make: Callable[[], str]) -> str:
        """What `make` returns in the first process that asks for `name`; the others wait for it."""
        made = self.folder / name
        with _locked(self.folder / f"lock-of-{name}", fcntl.LOCK_EX):
            if not made.exists():
                made.write_text(make())
            return made.read_text()

    def template(self, server: Databases) -> str:
        """The URL of a database with the newest schema on `server`; nobody may connect to it."""
        # Only tests that need a database need the migrations to work.
        from allocation.adapters.sql.migrations import upgrade

        def make() -> str:
            url = server.create_database()
            upgrade(url)
            return url

        return self.once(f"{_TEMPLATE}{zlib.crc32(server.url.encode()):x}", make)

    def drop_templates(self, server: Databases) -> None:
        """For a server that outlives the run."""
        for made in self.folder.glob(f"{_TEMPLATE}*"):
            server.drop_database(made.read_text())

    def _server(self, name: str) -> list[str]:
        addresses: list[str] = json.loads(self.once(name, lambda: self._keep(name)))
        return addresses

    def _keep(self, name: str) -> str:
        """Start the server's keeper; returns the addresses of the server, once it is ready."""
        ready, log = self.folder / f"{name}-ready", self.folder / f"{name}-keeper.log"
        with log.open("wb") as output:
            keeper = subprocess.Popen(
                [sys.executable, "-m", "tests.servers.shared", name, self.folder],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # a Ctrl-C is not for it
            )

        def answered() -> bool:
            if keeper.poll() is not None:
                raise AssertionError(f"{name} did not start:\n{log.read_text()}")
            return ready.exists()

        eventually(answered, within=90, what=f"{name} of this run")
        return ready.read_text()


@contextmanager
def run() -> Iterator[Run]:
    """A run, whose servers end with the block."""
    folder = Path(tempfile.mkdtemp(prefix="allocation-tests-"))
    try:
        with _locked(folder / "run.lock", fcntl.LOCK_EX):
            yield Run(folder)
        with _locked(folder / "keepers.lock", fcntl.LOCK_EX):
            pass  # every keeper has ended
    finally:
        shutil.rmtree(folder)


def keep(name: str, folder: Path) -> None:
    """Start the server, write where it is, and remove it once the run has ended."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with _locked(folder / "keepers.lock", fcntl.LOCK_SH):
        server: PrivatePostgres | PrivateRabbitMQ
        server = PrivatePostgres() if name == "postgres" else PrivateRabbitMQ()
        try:
            server.start()
            addresses = [server.url]
            if isinstance(server, PrivateRabbitMQ):
                addresses.append(server.management)
            written = folder / f"{name}-written"
            written.write_text(json.dumps(addresses))
            written.rename(folder / f"{name}-ready")
            with _locked(folder / "run.lock", fcntl.LOCK_SH):
                pass  # the run has ended
        finally:
            server.remove()


@contextmanager
def _locked(path: Path, how: int) -> Iterator[IO[str]]:
    with path.open("a") as file:
        fcntl.flock(file, how)
        yield file


if __name__ == "__main__":
    keep(sys.argv[1], Path(sys.argv[2]))
