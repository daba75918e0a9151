"""A process's heartbeat: the age of a file in the state folder, which health checks read."""

from contextlib import suppress
from pathlib import Path


def beat(state_dir: Path, name: str) -> None:
    """Show that the process called `name` is alive."""
    file = _file(state_dir, name)
    # On a full disk the process goes on, and the health check reports that there was no sign.
    with suppress(OSError):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()


def beaten_since(state_dir: Path, name: str, start: float) -> bool:
    """Whether the process called `name` has shown it since `start`, of `time.time`."""
    return (last := last_beat(state_dir, name)) is not None and last >= start


def last_beat(state_dir: Path, name: str) -> float | None:
    """When the process called `name` has last shown it, as `time.time` tells; None: never."""
    try:
        return _file(state_dir, name).stat().st_mtime
    except FileNotFoundError:
        return None


def _file(state_dir: Path, name: str) -> Path:
    return state_dir / "alive" / name
