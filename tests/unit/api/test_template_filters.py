"""How the pages write days, times and durations."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from allocation.entrypoints.api.pages import template_filters


@pytest.mark.parametrize(
    ("given", "shown", "exact"),
    [
        (
            "2026-11-28T19:25:07.123456+01:00",
            "28 November 2026, 18:25 UTC",
            "2026-11-28T18:25:07.123456+00:00",
        ),
        (
            datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
            "2 January 2026, 03:04 UTC",
            "2026-01-02T03:04:05+00:00",
        ),
        ("2026-11-28", "28 November 2026", "2026-11-28"),
        (date(2026, 5, 1), "1 May 2026", "2026-05-01"),
    ],
)
def test_times_are_written_as_people_write_them(given: Any, shown: str, exact: str) -> None:
    assert (
        template_filters.when(given) == f'<time datetime="{exact}" title="{exact}">{shown}</time>'
    )


def test_what_is_no_time_stays_as_it_is() -> None:
    assert [
        template_filters.when(given) for given in ("<b>soon</b>", "0001-01-01T00:00:00+14:00")
    ] == [
        *("<b>soon</b>", "0001-01-01T00:00:00+14:00"),
    ]


@pytest.mark.parametrize(
    ("seconds", "said"),
    [
        *((0.4, "0 seconds"), (1, "1 second"), (119, "119 seconds"), (120, "2 minutes")),
        *((7_200, "2 hours"), (200_000, "2 days")),
    ],
)
def test_durations_have_the_unit_that_says_enough(seconds: float, said: str) -> None:
    assert template_filters.duration(seconds) == said
