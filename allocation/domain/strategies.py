"""Named orders of preference: which batch serves first, which line is served first, or gives way.

SQL repeats these orders with indexes; `tests/storage/test_books.py` compares it with them.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date
from operator import attrgetter

from allocation.domain.books import Batch, Line, OrderLine, arrival
from allocation.domain.events import Candidate, Choice

CONSIDERED = 10
"""Batches that the explanation of a choice names at most."""

EARLIEST_FIRST = "earliest_first"


@dataclass(frozen=True, slots=True)
class Strategy:
    """An order of the batches: a line is served by the first one that has enough.

    `by` names what of a batch is compared, in turn; the last is the reference, so that the order
    is the same every time.
    """

    by: tuple[str, ...]

    @property
    def by_free(self) -> bool:
        """Whether each promise may change the order."""
        return "free" in self.by

    def sort(self, batches: Iterable[Batch], today: date) -> list[Batch]:
        """By this order, but the overdue ones last: nobody knows when they come."""
        order = attrgetter(*self.by)
        return sorted(batches, key=lambda batch: (batch.is_overdue(today), order(batch)))


STRATEGIES = {
    EARLIEST_FIRST: Strategy(("arrival", "batchref")),
    "first_to_expire": Strategy(("expiry", "arrival", "batchref")),
    "fewest_open": Strategy(("free", "arrival", "batchref")),
}
"""Earliest first: the shelf, then the earliest ETA. First to expire: the earliest best-before day,
those without one last. Fewest open: the one with the least that is enough, so that it is used up.
"""


FILL = "fill"
IN_ORDER = "in_order"
WAITING_RULES = (FILL, IN_ORDER)
"""Fill: a waiting line that does not fit is skipped. In order: nothing is served past an older or
more urgent line that waits, so that large lines don't starve.
"""


def service_order(line: Line) -> tuple[int, int, int]:
    """The sort key of lines: the higher priority is served first, then the older line.

    Of the parts of one line the one with the lower number.
    """
    return -line.priority, line.age, line.part


def shortage_order(line: Line) -> tuple[bool, int, int]:
    """The sort key of promised lines on a shortage: the first one gives way first.

    Reservations give way before allocations, the lower priority first, then the latest promise.
    """
    return line.expires_at is None, line.priority, -(line.promised_at or 0)


def candidates(batches: Iterable[Batch], line: Line | OrderLine, today: date) -> list[Batch]:
    """The batches that may serve the line, by preference; `batches` are sorted by the strategy.

    A line with `not_before` prefers the batch that comes last but in time, so that early stock
    stays free; if none is in time, the earliest after that day.
    """
    usable = [batch for batch in batches if batch.serves(line, today)]
    day = line.not_before
    if day is None:
        return usable

    def order(batch: Batch) -> tuple[bool, bool, int]:
        late = batch.arrival > day
        ordinal = batch.arrival.toordinal()
        return batch.is_overdue(today), late, ordinal if late else -ordinal

    return sorted(usable, key=order)


def earlier_batches(batches: Iterable[Batch], line: Line, today: date) -> list[Batch]:
    """The candidates of a promised line that come earlier than its promise.

    None for a line with `not_before` whose promise is in time: it wants early stock to stay free.
    """
    if line.not_before is not None and arrival(line.eta) <= line.not_before:
        return []
    return [
        batch
        for batch in candidates(batches, line, today)
        if batch.arrival < arrival(line.eta) and not batch.is_overdue(today)
    ]


def first_fit(batches: Iterable[Batch], qty: int) -> Batch | None:
    """The first of the batches that has so many free pieces."""
    return next((batch for batch in batches if batch.free >= qty), None)


def pieces_of(batches: Sequence[Batch], qty: int, *, split: bool) -> list[tuple[Batch, int]]:
    """How many pieces of a line each batch serves: all from the first one that has enough.

    If none has and the line may be `split`, each batch in turn gives what it has. The pieces may
    add up to less than `qty`.
    """
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


def choice_among(chosen: Batch | None, batches: Sequence[Batch]) -> Choice:
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
