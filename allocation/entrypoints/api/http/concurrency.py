"""How many requests are worked on at once, whatever the number of threads."""

import threading
from collections.abc import Iterator, Set
from contextlib import contextmanager

from flask import Flask, g, request


class Concurrency:
    """At most `limit` requests of this process are worked on at once; further ones queue.

    Each uses a connection to the database, which the limit holds down. A request that waits for an
    outcome lets another one work meanwhile.
    """

    def __init__(self, limit: int) -> None:
        self._free = threading.BoundedSemaphore(limit)

    def begin(self) -> None:
        """Wait until fewer requests than the limit are worked on."""
        self._free.acquire()

    def end(self) -> None:
        self._free.release()

    @contextmanager
    def released(self) -> Iterator[None]:
        """Inside the block the request waits, and uses no connection."""
        self.end()
        try:
            yield
        finally:
            self.begin()


def register(app: Flask, concurrency: Concurrency, unlimited: Set[str]) -> None:
    """Limit the requests of `app`, but for the endpoints `unlimited`.

    A stream no longer counts once it is being sent.
    """

    @app.before_request
    def begin() -> None:
        if request.endpoint not in unlimited:
            concurrency.begin()
            g.counts = True

    @app.teardown_request
    def end(_error: BaseException | None) -> None:
        if g.pop("counts", False):
            concurrency.end()
