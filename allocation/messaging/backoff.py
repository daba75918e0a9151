"""Backoff: how long to wait before the next try of what failed."""

from tenacity import RetryCallState, Retrying, wait_exponential, wait_random_exponential

FIRST = 0.4  # seconds
LONGEST = 5.0  # seconds


def seconds(failures: int, longest: float = LONGEST) -> float:
    """Seconds until the next try after so many failures in a row, with jitter.

    Half to all of FIRST after the first failure, doubled after each further one up to `longest`.
    """
    half = {"multiplier": FIRST / 2, "max": longest / 2}
    wait = wait_exponential(**half) + wait_random_exponential(**half)
    state = RetryCallState(Retrying(), None, (), {})
    state.attempt_number = failures
    return wait(state)
