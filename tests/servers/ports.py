"""Free ports on the loopback address."""

import random
import socket
from contextlib import ExitStack

LOOPBACK = "127.0.0.1"

# Below the range that Linux and macOS take clients' own ports from: a client that knocks on a
# stopped server's port could otherwise be given that very port, and hear itself.
_RANGE = range(20_000, 32_000)


def free_ports(count: int) -> list[int]:
    """`count` different ports that nothing listened on a moment ago."""
    ports: list[int] = []
    with ExitStack() as held:
        for port in random.sample(_RANGE, k=500):
            if len(ports) == count:
                break
            probe = held.enter_context(socket.socket())
            try:
                probe.bind((LOOPBACK, port))
            except OSError:
                continue
            ports.append(port)
    if len(ports) < count:
        raise RuntimeError(f"no {count} free ports between {_RANGE.start} and {_RANGE.stop}")
    return ports


def free_row(count: int) -> int:
    """The first of `count` ports side by side that nothing listened on a moment ago."""
    for first in random.sample(_RANGE, k=100):
        with ExitStack() as held:
            try:
                for port in range(first, first + count):
                    held.enter_context(socket.socket()).bind((LOOPBACK, port))
            except OSError:
                continue
            return first
    raise RuntimeError(f"no {count} free ports side by side above {_RANGE.start}")
