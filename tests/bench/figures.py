"""The table of the bench: its rows, and what was found for each, round by round."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One line of the table: what is measured, the limit beside it, and the target of their ratio.

    The ratio shall be `at_least` or `at_most` this.
    """

    title: str
    unit: str
    limit: str
    at_least: float | None = None
    at_most: float | None = None

    @property
    def target(self) -> str:
        return f"<= {self.at_most:g}" if self.at_least is None else f">= {self.at_least:g}"

    def is_met_by(self, ratio: float) -> bool:
        return (self.at_least is None or ratio >= self.at_least) and (
            self.at_most is None or ratio <= self.at_most
        )


@dataclass(frozen=True, slots=True)
class Figure:
    """What each round found for a row, and for its limit; what counts is the median of the ratios.

    `failure`: why there is nothing, or why it does not count.
    """

    row: Row
    measured: Sequence[float] = ()
    limit: Sequence[float] = ()
    notes: tuple[str, ...] = ()
    failure: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def problem(self) -> str | None:
        """Why the row has no ratio; None if it has one."""
        if self.failure is not None:
            return self.failure
        for name, found in (("nothing was measured", self.measured), ("no limit", self.limit)):
            if not found:
                return name
            if not all(math.isfinite(each) and each > 0 for each in found):
                return f"{name}: {list(found)}"
        if len(self.measured) != len(self.limit):
            return f"{len(self.measured)} rounds, and {len(self.limit)} of the limit"
        return None

    @property
    def ratios(self) -> list[float]:
        """What each round measured, by the limit that was measured beside it."""
        return [one / other for one, other in zip(self.measured, self.limit, strict=True)]

    @property
    def met(self) -> bool:
        return self.problem is None and self.row.is_met_by(statistics.median(self.ratios))

    def as_json(self) -> dict[str, Any]:
        found = (
            {"problem": self.problem}
            if self.problem
            else {
                "measured": _spread(self.measured),
                "limit": _spread(self.limit),
                "ratio": _spread(self.ratios),
            }
        )
        return {
            "row": self.row.title,
            "unit": self.row.unit,
            "limit is": self.row.limit,
            "target": self.row.target,
            **found,
            "met": self.met,
            "notes": list(self.notes),
            **({"details": self.details} if self.details else {}),
        }


def of_rows(
    rows: Sequence[Row], figures: Sequence[Figure], failure: str | None = None
) -> list[Figure]:
    """The figure of each row; a row without one is missed, by this failure if there was one."""
    found = {figure.row: figure for figure in figures}
    missing = failure or "the measurement left this row out"
    return [found.get(row) or Figure(row, failure=missing) for row in rows]


def shown(rounds: Sequence[float]) -> str:
    """The median, and the lowest and the highest of some rounds."""
    middle = _short(statistics.median(rounds))
    return (
        middle if len(rounds) == 1 else f"{middle} ({_short(min(rounds))}..{_short(max(rounds))})"
    )


def _spread(rounds: Sequence[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(rounds),
        "min": min(rounds),
        "max": max(rounds),
        "rounds": list(rounds),
    }


def _short(number: float) -> str:
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.2f}" if abs(number) < 10 else f"{number:.1f}"
