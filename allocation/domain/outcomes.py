"""How a command ended: an expected outcome is a value; after an exception it is retried.

`Product.pull_follow_ups` returns the commands that a decision leaves to be executed.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Plain = str | int | None
Fact = Plain | Sequence[Mapping[str, "Fact"]]


@dataclass(frozen=True, slots=True, init=False)
class Succeeded:
    """The command took effect (or had already); `facts` say what holds now."""

    facts: Mapping[str, Fact]

    def __init__(self, **facts: Fact) -> None:
        object.__setattr__(self, "facts", facts)


@dataclass(frozen=True, slots=True, init=False)
class Refused:
    """A rule says no, and that is final; `reason` is one of a few fixed phrases."""

    reason: str
    facts: Mapping[str, Fact]

    def __init__(self, reason: str, **facts: Fact) -> None:
        object.__setattr__(self, "reason", reason)
        object.__setattr__(self, "facts", facts)


Outcome = Succeeded | Refused
