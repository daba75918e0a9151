"""Processor time of processes, as the kernel counts it in /proc."""

import os
from contextlib import suppress
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def of_trees(roots: list[int]) -> float:
    """Seconds of these processes and all their descendants, with those that have ended."""
    children: dict[int, list[int]] = {}
    seconds: dict[int, float] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            pid = int(folder.name)
            children.setdefault(int(fields[1]), []).append(pid)
            # Its own time, and the time of children that have ended, in user and in kernel mode.
            seconds[pid] = sum(map(int, fields[11:15])) / _TICKS
    found, pids = 0.0, list(roots)
    while pids:
        pid = pids.pop()
        found += seconds[pid]
        pids += children.get(pid, ())
    return found
