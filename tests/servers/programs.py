"""Where RabbitMQ's programs are on this machine; on Debian root gets missing ones installed."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Debian's programs on the PATH change the user and hide the server's pid; these don't.
_DEBIAN = Path("/usr/lib/rabbitmq/bin")
_INSTALLING = Path("/run/allocation-tests-install.lock")
_INSTALL = "apt-get install --no-install-recommends -y rabbitmq-server"


def find_rabbitmq(say: Callable[[str], None]) -> Path:
    """The folder of `rabbitmq-server` and `rabbitmqctl`; root on Debian gets them installed."""
    if _DEBIAN.exists() and not _INSTALLING.exists():
        return _DEBIAN
    if (found := shutil.which("rabbitmq-server")) is not None:
        return Path(found).resolve().parent
    if os.geteuid() == 0 and Path("/etc/debian_version").exists():
        # Two runs side by side may both find it missing: one installs, the other waits.
        with _INSTALLING.open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not _DEBIAN.exists():
                say(f"RabbitMQ is missing: installing it by `{_INSTALL}`")
                _install()
            _INSTALLING.unlink(missing_ok=True)
        return _DEBIAN
    hint = "`brew install rabbitmq`" if sys.platform == "darwin" else "the package rabbitmq-server"
    raise RuntimeError(f"The tests need RabbitMQ: install {hint}, or set TEST_BROKER_URL.")


def _install() -> None:
    """Install Debian's package, without its service being started."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        # Debian's way to say: install, but start nothing.
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for command in ("apt-get update", _INSTALL):
            done = subprocess.run(
                [*command.split(), "-o", "DPkg::Lock::Timeout=120"],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"`{command}` failed:\n{done.stdout[-2000:]}")
    finally:
        if ours:
            policy.unlink()


def find_epmd() -> Path:
    """Erlang's port mapper: on the PATH, or beside the `erl` that is."""
    if (found := shutil.which("epmd")) is not None:
        return Path(found)
    if (erl := shutil.which("erl")) is not None:
        for path in sorted(Path(erl).resolve().parents[1].glob("erts-*/bin/epmd")):
            return path
    raise RuntimeError("The tests need Erlang's epmd on the PATH; it comes with RabbitMQ.")
