"""The rate limit: how many requests one caller may send, and how many wrong keys one address."""

import math
import time
from threading import Lock

from limits import RateLimitItem, RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from allocation.entrypoints.api.http.problems import Problem
from allocation.settings import Settings, is_loopback

RATE_LIMIT = 1000
"""Requests per second of one caller, in each process, if other machines can reach it."""

WRONG_KEYS = 30
"""Wrong keys that one address may send in a minute."""


def rate_limit(settings: Settings) -> int:
    """Requests per second that a process takes from one caller; 0: any number."""
    if settings.rate_limit is not None:
        return settings.rate_limit
    return 0 if is_loopback(settings.host) else RATE_LIMIT


class RateLimits:
    """Counts requests by caller, and wrong keys by address; raises a 429 over the limit.

    Each caller may send `per_second` requests; 0: any number.
    """

    def __init__(self, per_second: int) -> None:
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())
        # Its storage starts a timer of its own at a hit; two hits at once start the same one,
        # and the second raises.
        self._one_at_a_time = Lock()
        self._failures = RateLimitItemPerMinute(WRONG_KEYS)
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
