"""The Prefer header."""

import pytest

from allocation.entrypoints.api.http.intake import Preference, preference


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ("", Preference(None)),
        ("wait=5", Preference(5)),
        ("WAIT = 5", Preference(5)),
        ('wait="5"; x=y', Preference(5)),
        ("respond-async", Preference(None, respond_async=True)),
        ("respond-async, wait=10", Preference(10, respond_async=True)),
        ("respond-async,wait=10", Preference(10, respond_async=True)),
        ("wait=2, wait=9", Preference(2)),
        ("wait=0", Preference(0)),
        ("wait=007", Preference(7)),
        ("wait=31", Preference(30)),
        ("wait=" + "9" * 5000, Preference(30)),
        ("wait=-1", Preference(None)),
        ("wait=1.5", Preference(None)),
        ("wait=\u0663", Preference(None)),
        ("wait", Preference(None)),
        ("return=minimal", Preference(None)),
        (",;=,", Preference(None)),
    ],
)
def test_preferences_are_read_as_the_standard_says(header: str, expected: Preference) -> None:
    """The first counts, more than 30 s is cut, nonsense is ignored."""
    assert preference(header) == expected
