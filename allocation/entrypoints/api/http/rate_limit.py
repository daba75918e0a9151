"""Rate limits of callers; each process of the API counts by itself."""

import math
import time
from threading import Lock

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from allocation.entrypoints.api.http.problems import Problem

FAILURES = 30
"""Wrong keys that one address may send in a minute."""


class RateLimits:
    """Counts requests by caller, and wrong keys by address; raises a 429 over the limit.

    Each caller may send `per_second` requests; 0: any number.
    """

    def __init__(self, per_second: int) -> None:
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())
        # Its storage starts a timer of its own at a hit; two hits at once start the same one,
        # and the second raises.
        self._one_at_a_time = Lock()
        self._failures = RateLimitItemPerMinute(FAILURES)
        self._requests = RateLimitItemPerSecond(per_second) if per_second else None

    def count(self, caller: str) -> None:
        """One more request of this caller."""
        if self._requests is not None:
            self._hit(self._requests, caller)

    def count_failure(self, address: str) -> None:
        """One more wrong key from this address."""
        self._hit(self._failures, address)

    def _hit(self, limit: RateLimitItem, who: str) -> None:
        with self._one_at_a_time:
            if self._counter.hit(limit, who):
                return
            reset = self._counter.get_window_stats(limit, who).reset_time
        wait = max(1, math.ceil(reset - time.time()))
        raise Problem("too many requests", headers={"Retry-After": str(wait)})
