"""How long to pause before the next try of what failed."""

import random


def pause(failures: int, longest: float = 5.0) -> float:
    """Seconds: about 0.3 after the first failure, doubling up to `longest`, with jitter."""
    full = min(longest, 0.2 * 2 ** min(failures, 20))
    return full * random.uniform(0.5, 1)  # noqa: S311 - jitter needs no secrecy
