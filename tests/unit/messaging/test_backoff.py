import pytest

from allocation.messaging import backoff


@pytest.mark.parametrize(
    ("failures", "least", "most"),
    [(1, 0.2, 0.4), (2, 0.4, 0.8), (4, 1.6, 3.2), (5, 2.5, 5.0), (10_000, 2.5, 5.0)],
)
def test_the_wait_doubles_with_jitter_up_to_the_longest(
    failures: int, least: float, most: float
) -> None:
    waits = {backoff.seconds(failures) for _ in range(50)}

    assert all(least <= wait <= most for wait in waits)
    assert len(waits) > 1


def test_the_longest_wait_may_be_another() -> None:
    assert 150 <= backoff.seconds(30, longest=300) <= 300
