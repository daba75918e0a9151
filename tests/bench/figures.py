"""What the bench tells: medians with their spread, and ratios held to their targets."""

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Spread:
    """One figure of each round; what counts is the median."""

    rounds: tuple[float, ...]

    @classmethod
    def of(cls, rounds: Iterable[float]) -> "Spread":
        return cls(tuple(rounds))

    @property
    def median(self) -> float:
        return statistics.median(self.rounds)

    def __str__(self) -> str:
        if len(self.rounds) == 1:
            return _short(self.median)
        return f"{_short(self.median)} ({_short(min(self.rounds))}..{_short(max(self.rounds))})"

    def as_json(self) -> dict[str, Any]:
        return {
            "median": self.median,
            "min": min(self.rounds),
            "max": max(self.rounds),
            "rounds": list(self.rounds),
        }


@dataclass(frozen=True, slots=True)
class Goal:
    """A ratio that shall be at least, or at most, `bound`; `to` says to what it is."""

    to: str
    ratio: Spread
    at_least: float | None = None
    at_most: float | None = None

    @classmethod
    def between(
        cls, to: str, measured: Sequence[float], limit: Sequence[float], **bound: float
    ) -> "Goal":
        """The ratio of each round's measurement to what was measured beside it."""
        ratios = [one / other for one, other in zip(measured, limit, strict=True)]
        return cls(to, Spread.of(ratios), **bound)

    @property
    def met(self) -> bool:
        if self.at_least is not None:
            return self.ratio.median >= self.at_least
        return self.at_most is None or self.ratio.median <= self.at_most

    @property
    def target(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}"

    def as_json(self) -> dict[str, Any]:
        return {"to": self.to, "target": self.target, "ratio": self.ratio.as_json()} | {
            "met": self.met
        }


@dataclass(frozen=True, slots=True)
class Figure:
    """One line of the table: what was measured, its limit, and the goals.

    `failure` says why there is nothing to measure, or why it does not count.
    """

    name: str
    unit: str = ""
    measured: Spread | None = None
    limit: Spread | None = None
    limit_name: str = ""
    goals: tuple[Goal, ...] = ()
    notes: tuple[str, ...] = ()
    failure: str | None = None
    details: dict[str, Any] = field(default_factory=dict)

    @property
    def met(self) -> bool:
        return self.failure is None and all(goal.met for goal in self.goals)

    def as_json(self) -> dict[str, Any]:
        return {
            "name": self.name,
            "unit": self.unit,
            "measured": self.measured and self.measured.as_json(),
            "limit": self.limit and self.limit.as_json(),
            "limit_is": self.limit_name,
            "goals": [goal.as_json() for goal in self.goals],
            "met": self.met,
            "failure": self.failure,
            "notes": list(self.notes),
            **({"details": self.details} if self.details else {}),
        }


def _short(number: float) -> str:
    if abs(number) >= 100:
        return f"{number:,.0f}"
    return f"{number:.2f}" if abs(number) < 10 else f"{number:.1f}"
