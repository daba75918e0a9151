"""Trying again for a while: longer pauses from try to try, and not all callers at once.

Not by `allocation.messaging.backoff`: the client is installed without tenacity.
"""

import time
from random import SystemRandom

_FIRST, _LONGEST = 0.1, 5.0  # seconds


class Patience:
    """So many seconds, from now on, in which to try again."""

    def __init__(self, seconds: float) -> None:
        self._end = time.monotonic() + seconds
        self._pause = _FIRST

    def pause(self, at_least: float = 0.0) -> bool:
        """Wait before another try; False at once when its time would be over by then."""
        pause = max(at_least, self._pause * SystemRandom().uniform(0.5, 1.0))
        self._pause = min(2 * self._pause, _LONGEST)
        if time.monotonic() + pause > self._end:
            return False
        time.sleep(pause)
        return True
