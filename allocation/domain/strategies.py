"""Which batch serves a line first: named orders of preference, and what a choice was made from."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from allocation.domain.books import Batch
from allocation.domain.events import Candidate, Choice

CONSIDERED = 10
"""Batches that the explanation of a choice names at most."""

EARLIEST_FIRST = "earliest_first"


@dataclass(frozen=True, slots=True)
class Strategy:
    """An order of the batches: a line is served by the first one that has enough.

    `by_free`: the order changes with what is free, so that each promise may change it.
    """

    key: Callable[[Batch], tuple[Any, ...]]
    by_free: bool = False

    def sort(self, batches: Iterable[Batch]) -> list[Batch]:
        """The batches in this order; ties by reference, so it is the same every time."""
        return sorted(batches, key=lambda batch: (*self.key(batch), batch.batchref))


def arrival(eta: date | None) -> date:
    """A day to compare by: what is on the shelf comes before every day."""
    return eta or date.min


STRATEGIES: dict[str, Strategy] = {
    EARLIEST_FIRST: Strategy(lambda batch: (arrival(batch.eta),)),
    "first_to_expire": Strategy(
        lambda batch: (batch.best_before or date.max, arrival(batch.eta)),
    ),
    "fewest_open": Strategy(lambda batch: (batch.free, arrival(batch.eta)), by_free=True),
}
"""Earliest first: the shelf, then the earliest ETA. First to expire: the earliest best-before day,
those without one last. Fewest open: the one with the least that is enough, so that it is used up.
"""


def first_fit(batches: Iterable[Batch], qty: int) -> Batch | None:
    """The first of the batches that has so many free pieces."""
    return next((batch for batch in batches if batch.free >= qty), None)


def pieces_of(batches: Iterable[Batch], qty: int, *, split: bool) -> list[tuple[Batch, int]]:
    """How many pieces of a line each batch serves: all from the first one that has enough.

    If none has and the line may be `split`, each batch in turn gives what it has. The pieces may
    add up to less than `qty`.
    """
    batches = list(batches)
    whole = first_fit(batches, qty)
    if whole is not None:
        return [(whole, qty)]
    pieces: list[tuple[Batch, int]] = []
    for batch in batches if split else ():
        if qty > 0 and batch.free > 0:
            pieces.append((batch, min(batch.free, qty)))
            qty -= pieces[-1][1]
    return pieces


def enough(batches: Iterable[Batch], qty: int, *, split: bool) -> bool:
    """Whether one of the batches has so many free pieces, or, `split`, all of them together."""
    free = [batch.free for batch in batches]
    return (sum(free) if split else max(free, default=0)) >= qty


def choice(chosen: Batch | None, batches: Sequence[Batch]) -> Choice:
    """What there was to choose from, just before, kept small."""
    candidates = [batch for batch in batches if batch.free > 0]
    considered = candidates
    if chosen is not None:
        considered = candidates[: candidates.index(chosen) + 1]
    if len(considered) > CONSIDERED:
        considered = [*considered[: CONSIDERED - 1], considered[-1]]
    return Choice(
        len(candidates),
        tuple(Candidate(batch.batchref, batch.eta, batch.free) for batch in considered),
    )
