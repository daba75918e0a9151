import sys
import threading
import time
from typing import Any

import pytest

from allocation.entrypoints.api.http.rate_limit import RateLimits, rate_limit
from allocation.settings import Settings


@pytest.mark.parametrize(
    ("settings", "limit"),
    [
        ({}, 0),
        ({"api_key": "mine"}, 0),
        ({"host": "0.0.0.0"}, 1000),
        ({"host": "0.0.0.0", "rate_limit": 0}, 0),
        ({"rate_limit": 7}, 7),
    ],
)
def test_only_where_others_may_ask_there_is_a_limit_unless_one_is_set(
    settings: dict[str, Any], limit: int
) -> None:
    """A load test on one machine meets none by accident."""
    assert rate_limit(Settings(**settings)) == limit


def test_callers_at_once_are_counted_without_an_error() -> None:
    """The library's storage alone fails when two threads come at the same moment."""
    limits = RateLimits(1_000_000)
    failures: list[RuntimeError] = []
    together = threading.Barrier(8)

    def ask() -> None:
        for _ in range(250):
            # The fault needs two hits at the moment when the storage's timer, of 10 ms, has ended;
            # the storage has no public sign of that to wait for.
            time.sleep(0.012)
            together.wait()
            try:
                limits.count("caller")
            except RuntimeError as error:
                failures.append(error)

    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    sys.setswitchinterval(switching)

    assert failures == []
