"""How often one caller may ask; counted in each process of the API by itself."""

import math
import time

from limits import RateLimitItemPerMinute, RateLimitItemPerSecond
from limits.storage import MemoryStorage
from limits.strategies import SlidingWindowCounterRateLimiter

from allocation.api.problems import Problem
from allocation.settings import Settings

FAILURES = 30
"""Wrong keys from one address in a minute, after which it is told to wait."""


class Limits:
    """Counts requests by caller, and wrong keys by address; raises a 429 over the limit."""

    def __init__(self, settings: Settings) -> None:
        self._counter = SlidingWindowCounterRateLimiter(MemoryStorage())
        self._failures = RateLimitItemPerMinute(FAILURES)
        # The requests of a caller spread evenly over the processes.
        share = math.ceil(settings.rate_limit / settings.api_workers)
        self._requests = RateLimitItemPerSecond(share) if share else None

    def count(self, caller: str) -> None:
        """One more request of this caller; without a name, on loopback, nobody is limited."""
        if caller and self._requests is not None:
            self._hit(self._requests, caller)

    def count_failure(self, address: str) -> None:
        """One more wrong key from this address."""
        self._hit(self._failures, address)

    def _hit(self, limit: RateLimitItemPerSecond | RateLimitItemPerMinute, who: str) -> None:
        if self._counter.hit(limit, who):
            return
        reset = self._counter.get_window_stats(limit, who).reset_time
        wait = max(1, math.ceil(reset - time.time()))
        raise Problem(429, kind="too many requests", headers={"Retry-After": str(wait)})
