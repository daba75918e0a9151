"""How often a command is retried, and how long each retry waits.

For the backoff of reconnects and of subscribers see `allocation.messaging.backoff`.
"""

import random

MAX_RETRIES = 12
"""Retries of a command that could not be decided; their delays are seven minutes at most."""

LONGEST_DELAY = 60  # seconds

UNUSABLE_RETRIES = 6
"""How far retries are counted while the storage can't be used: the delay is the longest by then."""

UNUSABLE_PAUSE = 1.0
"""Seconds before a command goes back to the embedded broker, which redelivers it at once."""


def delay(retries: int) -> int:
    """Seconds until the next attempt after so many retries: doubling, with jitter, and never 0."""
    longest = min(LONGEST_DELAY, 2**retries)
    return random.randint(1, longest)  # noqa: S311 - jitter needs no secrecy
