"""Which hosts are loopback, what signs the cookies, and the rate limit of one caller."""

import sys
import threading
import time
from typing import Any

import pytest

from allocation.entrypoints.api.auth.security import (
    RateLimits,
    rate_limit,
    session_secret,
)
from allocation.settings import Settings, is_loopback


@pytest.mark.parametrize(
    ("host", "inside"),
    [
        ("127.0.0.1", True),
        ("127.8.9.10", True),
        ("::1", True),
        ("[::1]", True),
        ("localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("[::]", False),
        ("", False),
        ("192.168.1.5", False),
        ("localhost.example.com", False),
    ],
)
def test_only_the_machine_itself_is_loopback(host: str, inside: bool) -> None:
    """Whatever else a name may resolve to is taken for reachable."""
    assert is_loopback(host) is inside


def test_what_signs_the_cookies_is_set_or_made_of_the_key_or_new() -> None:
    """It does not show the key, and is another one with another key."""
    made = b"made by the server at its start"
    given = session_secret(Settings(session_secret="x" * 16, api_key="a"), made)
    of_a, of_a_again, of_b = (
        session_secret(Settings(api_key=key), made) for key in ("a key", "a key", "b key")
    )

    assert given == b"x" * 16
    assert of_a == of_a_again
    assert of_a != of_b
    assert b"a key" not in of_a
    assert session_secret(Settings(), made) == made
    assert len(session_secret(Settings(), None)) == 32


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
            time.sleep(0.012)  # until the storage's timer has run: the next hit starts another
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
