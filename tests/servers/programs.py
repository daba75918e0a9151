"""Where the programs are that tests run; on Debian root gets missing ones installed."""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

# Debian's programs on the PATH change the user and hide the server's pid; these don't.
_RABBITMQ = Path("/usr/lib/rabbitmq/bin")
_HOMEBREW = {"rabbitmq-server": "rabbitmq", "nodejs": "node", "npm": "node"}


def find_rabbitmq(say: Callable[[str], None]) -> Path:
    """The folder of `rabbitmq-server` and `rabbitmqctl`; root on Debian gets them installed."""
    if _RABBITMQ.exists() and not _installing("rabbitmq-server").exists():
        return _RABBITMQ
    needs = "RabbitMQ (by TEST_BROKER_URL, or as a program)"
    found = _find(["rabbitmq-server"], "rabbitmq-server", needs, say)
    return _RABBITMQ if _RABBITMQ.exists() else found.resolve().parent


def find_promtool(say: Callable[[str], None]) -> Path:
    """Prometheus's own checker of metrics, rules and settings; root on Debian gets it installed."""
    return _find(["promtool"], "prometheus", "promtool", say)


def find_chromium(say: Callable[[str], None]) -> Path:
    """The browser; root on Debian gets it installed."""
    names = ["chromium", "chromium-browser", "google-chrome"]
    return _find(names, "chromium", "Chromium", say)


def find_curl(say: Callable[[str], None]) -> Path:
    """What the pages' examples call; root on Debian gets it installed."""
    return _find(["curl"], "curl", "curl", say)


def find_npm(say: Callable[[str], None]) -> Path:
    """The installer that comes with Node.js; root on Debian gets both installed."""
    _find(["node"], "nodejs", "Node.js", say)
    return _find(["npm"], "npm", "npm", say)


def _find(names: Sequence[str], package: str, needs: str, say: Callable[[str], None]) -> Path:
    """The first of these programs that is on the PATH, after an installation if none is."""
    if not _installing(package).exists() and (found := _on_path(names)) is not None:
        return found
    if _may_install():
        _install_if_missing(names, package, say)
        if (found := _on_path(names)) is not None:
            return found
    if sys.platform == "darwin":
        package = _HOMEBREW.get(package, package)
    raise RuntimeError(f"The tests need {needs} on the PATH: install the package {package}.")


def _on_path(names: Sequence[str]) -> Path | None:
    return next((Path(found) for name in names if (found := shutil.which(name))), None)


def _may_install() -> bool:
    return os.geteuid() == 0 and Path("/etc/debian_version").exists()


def _installing(package: str) -> Path:
    """It is there while somebody installs the package."""
    return Path(f"/run/allocation-tests-install-{package}.lock")


def _install_if_missing(names: Sequence[str], package: str, say: Callable[[str], None]) -> None:
    # Two runs side by side may both find it missing: one installs, the other waits.
    with _installing(package).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if _on_path(names) is None:
            install = f"apt-get install --no-install-recommends -y {package}"
            say(f"{names[0]} is missing: installing it by `{install}`")
            _install(install)
        _installing(package).unlink(missing_ok=True)


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
