"""Gathering: commands that are there together go to the pool as one job, each its own request."""

from collections import deque
from collections.abc import Sequence
from itertools import count
from typing import Any
from weakref import ref

from billiard.einfo import ExceptionInfo
from billiard.exceptions import Terminated, WorkerLostError
from celery.worker.consumer import Consumer
from celery.worker.request import Request

from allocation.entrypoints.worker import executor

PATIENCE = 50
"""Commands wait so many times longer while another job runs: then they may be more."""

ALONE_AFTER = 2
"""Deliveries that failed, after which a command stands alone: it may be what kills its process."""

ANYTHING = frozenset({""})
"""Of a command that names neither its skus nor its order: it may be about any."""


class Gathering:
    """Celery's `on_task_request`, for a worker with an event loop.

    Requests wait for a free process of the pool, and go to it together. Those of one sku, and those
    of one order, keep their order: none is given to a process while another process has an earlier
    one. Everything else of a request's life stays Celery's: events, revocation, acknowledgement,
    what a lost process means.
    """

    def __init__(self, consumer: Consumer, size: int, wait: float) -> None:
        """A job has at most `size` commands; one that is alone waits `wait` seconds for others."""
        self._consumer = consumer
        self._size = size
        self._wait = wait
        self._waiting: deque[Request] = deque()
        self._jobs: dict[int, frozenset[str]] = {}
        self._numbers = count()
        self._timer: Any = None
        self._asked = False
        # What waits is about what is at work: there is nothing to ask for until a job ends.
        self._held_back = False

    def add(self, request: Request) -> None:
        """Take a request that was admitted."""
        self._waiting.append(request)
        if len(self._waiting) >= self._size and not self._held_back:
            self._ask()
        elif self._timer is None:
            wait = self._wait * PATIENCE if self._jobs else self._wait
            self._timer = self._consumer.hub.call_later(wait, self._ask)

    def forget(self) -> None:
        """The connection is lost: the broker delivers again what waits and what runs here."""
        self._waiting.clear()
        self._jobs.clear()
        self._asked = self._held_back = False
        self._stop_timer()

    def _ask(self) -> None:
        """Ask for a process; `_dispatch` is called as soon as one is free."""
        self._stop_timer()
        if self._waiting and not self._asked:
            self._asked = True
            self._consumer.controller.semaphore.acquire(self._dispatch)

    def _dispatch(self) -> None:
        self._asked = False
        self._stop_timer()
        taken = self._take()
        requests = [request for request in taken if not request.revoked()]
        if not requests:
            self._consumer.controller.semaphore.release()
            self._held_back = not taken
            if taken:  # revoked, all of them
                self._ask()
            return
        self._start(requests)
        if len(self._waiting) >= self._size:
            self._ask()

    def _take(self) -> list[Request]:
        """The oldest requests that may go now, in their order."""
        taken: list[Request] = []
        left: deque[Request] = deque()
        closed = set[str]().union(*self._jobs.values())
        full = closed >= ANYTHING
        for request in self._waiting:
            about, alone = _about(request), _stands_alone(request)
            if about is ANYTHING:
                full = full or bool(closed)
            if full or not closed.isdisjoint(about) or (alone and taken):
                left.append(request)
                closed |= about
                full = full or about is ANYTHING
                continue
            taken.append(request)
            full = alone or len(taken) == self._size
        self._waiting = left
        return taken

    def _start(self, requests: Sequence[Request]) -> None:
        number = next(self._numbers)
        self._jobs[number] = frozenset().union(*map(_about, requests))
        first = requests[0]
        hard_limit, soft_limit = first.time_limits

        def on_accepted(pid: int, time_accepted: float) -> None:
            for request in requests:
                request.on_accepted(pid, time_accepted)

        def on_timeout(soft: bool, timeout: float) -> None:
            for request in requests:
                request.on_timeout(soft, timeout)

        def on_success(results: Sequence[tuple[int, object, float]]) -> None:
            self._finished(number)
            for request, result in zip(requests, results, strict=True):
                request.on_success(result)

        def on_failure(failure: ExceptionInfo) -> None:
            self._finished(number)
            for request in requests:
                request.on_failure(_as_of(request, failure))

        result = self._consumer.pool.apply_async(
            executor.run,
            (
                [
                    executor.Call(request.type, request.id, request.request_dict)
                    for request in requests
                ],
            ),
            accept_callback=on_accepted,
            timeout_callback=on_timeout,
            callback=on_success,
            error_callback=on_failure,
            soft_timeout=soft_limit or first.task.soft_time_limit,
            timeout=hard_limit or first.task.time_limit,
            correlation_id=first.id,
        )
        for request in requests:
            # By this a request that is revoked ends its job.
            request._apply_result = None if result is None else ref(result)

    def _finished(self, number: int) -> None:
        self._jobs.pop(number, None)
        self._held_back = False
        self._ask()

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _about(request: Request) -> frozenset[str]:
    """The skus and the order that a command names, each said to be one or the other."""
    named = request.kwargs
    lines = named.get("lines")
    skus = [named.get("sku")]
    if isinstance(lines, list):
        skus = [line.get("sku") for line in lines if isinstance(line, dict)]
    about = [f"sku {sku}" for sku in skus if isinstance(sku, str)]
    if isinstance(orderid := named.get("orderid"), str):
        about.append(f"order {orderid}")
    return frozenset(about) or ANYTHING


def _stands_alone(request: Request) -> bool:
    """Whether its time limits are its own, or it is suspected."""
    deliveries = int(request.request_dict.get("x-delivery-count") or 0)
    return any(request.time_limits) or deliveries >= ALONE_AFTER


def _as_of(request: Request, failure: ExceptionInfo) -> ExceptionInfo:
    """What the failure of a job means to one of its requests."""
    cause = getattr(failure.exception, "exc", failure.exception)
    was_meant = request._already_revoked or request._already_cancelled
    if not isinstance(cause, Terminated) or was_meant:
        return failure
    try:
        raise WorkerLostError("another command of the same job was terminated")
    except WorkerLostError:
        return ExceptionInfo()
