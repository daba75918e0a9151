"""Wait for what is about to become true, up to a deadline."""

import time
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def eventually(
    condition: Callable[[], T | None], *, within: float = 10.0, what: str = "the condition"
) -> T:
    """The first truthy value of `condition`, asked again and again for `within` seconds.

    Raises AssertionError that names `what` and shows the last value.
    """
    deadline = time.monotonic() + within
    pause = 0.005
    while not (seen := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {within:g} s in vain for {what}; last seen: {seen!r}")
        time.sleep(pause)  # between two looks, within the deadline
        pause = min(pause * 1.5, 0.1)
    return seen
