"""Batching: commands that are waiting together go to one process of the pool as one batch."""

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from itertools import count
from typing import Any, NamedTuple, Protocol

from allocation.entrypoints.worker.acks import EventLoop, Timer

LINGER_WHILE_BUSY = 50
"""Linger this many times longer while a batch is running, so that the next one fills up."""

ALONE_AFTER = 2
"""Failed deliveries after which a command is decided alone: it may be what kills its process."""

ANYTHING = frozenset({""})
"""The key of a command that names neither a sku nor an order: it conflicts with every command."""


class Request(Protocol):
    """The part of Celery's request that batching reads."""

    kwargs: Mapping[str, Any]
    time_limits: Sequence[float | None]
    request_dict: Mapping[str, Any]

    def revoked(self) -> bool:
        """Return whether the command was revoked or has expired; it is settled then."""


class Pool(Protocol):
    """The processes that decide batches."""

    def acquire(self, start: Callable[[], None]) -> None:
        """Call `start` as soon as a process is free, and reserve that process for it."""

    def release(self) -> None:
        """Give back a process that was reserved and is not needed."""

    def run(self, requests: Sequence[Any], finished: Callable[[], None]) -> None:
        """Have the reserved process decide the requests, and call `finished` when it has."""


class Batching:
    """Collects requests into batches, and gives each batch to a free process.

    Commands of one sku, and commands of one order, keep their order: no process gets one while
    another process has an earlier one. Everything else in a request's life stays Celery's: events,
    revocation, acknowledgement, and what a lost process means.
    """

    def __init__(self, loop: EventLoop, pool: Pool, size: int, linger: float) -> None:
        """A batch has at most `size` commands; the first one waits `linger` seconds for others."""
        self._loop = loop
        self._pool = pool
        self._size = size
        self._linger = linger
        self._waiting: deque[_Waiting] = deque()
        self._running: dict[int, frozenset[str]] = {}
        self._numbers = count()
        self._timer: Timer | None = None
        self._asked = False
        # All waiting commands conflict with running ones; try again when a batch ends.
        self._held_back = False

    def add(self, request: Request) -> None:
        """Take a request that was admitted."""
        self._waiting.append(_Waiting(request, conflict_keys(request), is_decided_alone(request)))
        if len(self._waiting) >= self._size and not self._held_back:
            self._ask()
        elif self._timer is None and not self._asked:
            # Once all that has arrived is read. Not `call_soon`: what a timer calls soon, Celery's
            # loop calls after it has waited for the next message.
            self._timer = self._loop.call_later(0, self._linger_or_ask)

    def forget(self) -> None:
        """Drop everything: the connection is lost, and the broker redelivers every command."""
        self._waiting.clear()
        self._running.clear()
        self._asked = self._held_back = False
        self._stop_timer()

    def _linger_or_ask(self) -> None:
        """Start a command that came alone to an idle worker; have others linger."""
        if len(self._waiting) == 1 and not self._running:
            self._ask()
        else:
            linger = self._linger * LINGER_WHILE_BUSY if self._running else self._linger
            self._timer = self._loop.call_later(linger, self._ask)

    def _ask(self) -> None:
        """Ask for a process; `_dispatch` is called as soon as one is free."""
        self._stop_timer()
        if self._waiting and not self._asked:
            self._asked = True
            self._pool.acquire(self._dispatch)

    def _dispatch(self) -> None:
        self._asked = False
        self._stop_timer()
        taken = self._take()
        kept = [each for each in taken if not each.request.revoked()]
        if not kept:
            self._pool.release()
            self._held_back = not taken
            if taken:  # all of them were revoked
                self._ask()
            return
        number = next(self._numbers)
        self._running[number] = frozenset().union(*(each.keys for each in kept))
        self._pool.run([each.request for each in kept], lambda: self._finished(number))
        if len(self._waiting) >= self._size:
            self._ask()

    def _take(self) -> list["_Waiting"]:
        """Take the oldest requests that may run now, in their order."""
        taken: list[_Waiting] = []
        left: deque[_Waiting] = deque()
        closed = set[str]().union(*self._running.values())
        full = closed >= ANYTHING
        while self._waiting and not full:
            each = self._waiting.popleft()
            if each.keys is ANYTHING:
                full = bool(closed)
            if full or not closed.isdisjoint(each.keys) or (each.is_alone and taken):
                left.append(each)
                closed |= each.keys
                full = full or each.keys is ANYTHING
                continue
            taken.append(each)
            full = each.is_alone or len(taken) == self._size
        self._waiting.extendleft(reversed(left))
        return taken

    def _finished(self, number: int) -> None:
        self._running.pop(number, None)
        self._held_back = False
        self._ask()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Waiting(NamedTuple):
    """A request with what is asked of it each time that a batch is put together."""

    request: Request
    keys: frozenset[str]
    is_alone: bool


def conflict_keys(request: Request) -> frozenset[str]:
    """The skus and the order that a command names, marked as one or the other."""
    # As `Command.skus` and `Command.order`, but of JSON: to validate it takes twelve times as long,
    # here in the one process that all commands pass, and the pool validates it anyway.
    named = request.kwargs
    lines = named.get("lines")
    skus = [named.get("sku")]
    if isinstance(lines, list):
        skus = [line.get("sku") for line in lines if isinstance(line, dict)]
    keys = [f"sku {sku}" for sku in skus if isinstance(sku, str)]
    if isinstance(orderid := named.get("orderid"), str):
        keys.append(f"order {orderid}")
    return frozenset(keys) or ANYTHING


def is_decided_alone(request: Request) -> bool:
    """Whether the command has time limits of its own, or may be what kills its process."""
    deliveries = int(request.request_dict.get("x-delivery-count") or 0)
    return any(request.time_limits) or deliveries >= ALONE_AFTER
