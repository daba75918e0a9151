"""A row of the bench counts as missed unless it was measured beside its limit."""

from math import inf, nan

import pytest

from tests.bench.figures import Figure, Row, of_rows

FAST = Row(title="fast", unit="/s", limit="bare", at_least=2.0)
SMALL = Row(title="small", unit="MB", limit="before", at_most=1.1)


def test_the_median_of_the_rounds_ratios_meets_the_target_or_does_not() -> None:
    fast = [Figure(FAST, [1.0, 4.0, 4.0], [limit, 2.0, 2.0]) for limit in (1.0, 100.0)]
    slow = Figure(FAST, [4.0, 4.0, 4.0], [2.0, 2.1, 2.1])
    small, big = (Figure(SMALL, [after], [100.0]) for after in (110.0, 111.0))

    assert [each.met for each in (*fast, slow, small, big)] == [True, True, False, True, False]
    assert slow.problem is None


@pytest.mark.parametrize(
    ("measured", "limit", "problem"),
    [
        ([], [], "nothing was measured"),
        ([1.0], [], "no limit"),
        ([1.0, 1.0], [1.0], "2 rounds, and 1 of the limit"),
        ([0.0], [1.0], "nothing was measured: [0.0]"),
        ([1.0], [nan], "no limit: [nan]"),
        ([inf], [1.0], "nothing was measured: [inf]"),
    ],
)
def test_a_row_without_figures_is_missed(
    measured: list[float], limit: list[float], problem: str
) -> None:
    figure = Figure(FAST, measured, limit)

    assert (figure.problem, figure.met) == (problem, False)
    assert figure.as_json()["problem"] == problem


def test_a_row_that_its_measurement_leaves_out_is_missed() -> None:
    found = Figure(FAST, [2.0], [1.0])

    assert of_rows((FAST, SMALL), [found]) == [
        found,
        Figure(SMALL, failure="the measurement left this row out"),
    ]


def test_the_rows_of_a_measurement_that_failed_are_missed() -> None:
    figures = of_rows((FAST, SMALL), [], "OSError: away")

    assert [(each.problem, each.met) for each in figures] == [("OSError: away", False)] * 2
