"""Which hosts are loopback, and what signs the cookies."""

import pytest

from allocation.entrypoints.api.auth.security import session_secret
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
