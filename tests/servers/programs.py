"""Where the programs are that tests run; on Debian root gets missing ones installed."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

# Debian's programs on the PATH change the user and hide the server's pid; these don't.
_RABBITMQ = Path("/usr/lib/rabbitmq/bin")
_PROMTOOL = Path("/usr/bin/promtool")
_CHROMIUM = Path("/usr/bin/chromium")


def find_rabbitmq(say: Callable[[str], None]) -> Path:
    """The folder of `rabbitmq-server` and `rabbitmqctl`; root on Debian gets them installed."""
    if _RABBITMQ.exists() and not _installing("rabbitmq-server").exists():
        return _RABBITMQ
    if (found := shutil.which("rabbitmq-server")) is not None:
        return Path(found).resolve().parent
    if _may_install():
        return _installed("rabbitmq-server", _RABBITMQ, say)
    hint = "`brew install rabbitmq`" if sys.platform == "darwin" else "the package rabbitmq-server"
    raise RuntimeError(f"The tests need RabbitMQ: install {hint}, or set TEST_BROKER_URL.")


def find_promtool(say: Callable[[str], None]) -> Path:
    """Prometheus's own checker of metrics, rules and settings; root on Debian gets it installed."""
    if not _installing("prometheus").exists() and (found := shutil.which("promtool")) is not None:
        return Path(found)
    if _may_install():
        return _installed("prometheus", _PROMTOOL, say)
    raise RuntimeError("The tests need promtool on the PATH: install the package prometheus.")


def find_chromium(say: Callable[[str], None]) -> Path:
    """The browser; root on Debian gets it installed."""
    if not _installing("chromium").exists():
        for name in ("chromium", "chromium-browser", "google-chrome"):
            if (found := shutil.which(name)) is not None:
                return Path(found)
    if _may_install():
        return _installed("chromium", _CHROMIUM, say)
    raise RuntimeError("The tests need Chromium on the PATH: install the package chromium.")


def _may_install() -> bool:
    return os.geteuid() == 0 and Path("/etc/debian_version").exists()


def _installing(package: str) -> Path:
    """It is there while somebody installs the package."""
    return Path(f"/run/allocation-tests-install-{package}.lock")


def _installed(package: str, brings: Path, say: Callable[[str], None]) -> Path:
    """`brings`, which Debian's package has; installed where it is missing."""
    # Two runs side by side may both find it missing: one installs, the other waits.
    with _installing(package).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not brings.exists():
            install = f"apt-get install --no-install-recommends -y {package}"
            say(f"{brings.name} is missing: installing it by `{install}`")
            _install(install)
        _installing(package).unlink(missing_ok=True)
    return brings


def _install(command: str) -> None:
    """Install Debian's package, without its service being started."""
    policy = Path("/usr/sbin/policy-rc.d")
    ours = not policy.exists()
    if ours:
        # Debian's way to say: install, but start nothing.
        policy.write_text("#!/bin/sh\nexit 101\n")
        policy.chmod(0o755)
    try:
        for step in ("apt-get update", command):
            done = subprocess.run(
                [*step.split(), "-o", "DPkg::Lock::Timeout=120"],
                env=os.environ | {"DEBIAN_FRONTEND": "noninteractive"},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            if done.returncode:
                raise RuntimeError(f"`{step}` failed:\n{done.stdout[-2000:]}")
    finally:
        if ours:
            policy.unlink(missing_ok=True)


def find_epmd() -> Path:
    """Erlang's port mapper: on the PATH, or beside the `erl` that is."""
    if (found := shutil.which("epmd")) is not None:
        return Path(found)
    if (erl := shutil.which("erl")) is not None:
        for path in sorted(Path(erl).resolve().parents[1].glob("erts-*/bin/epmd")):
            return path
    raise RuntimeError("The tests need Erlang's epmd on the PATH; it comes with RabbitMQ.")
