"""Lines in service order, asked for again and again while stock and lines change."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import date
from typing import NamedTuple, Self

from allocation.domain.books import Batch, Line
from allocation.domain.strategies import service_order

Order = tuple[int, int, int]
"""A place in the service order, as `service_order` gives it."""

Fetch = Callable[[Sequence["Stock"], Order | None], tuple[Iterable[Line], Order | None]]
"""The first stored lines that some stock may serve, behind a place if one is given.

With them the place of the last one, or None if there are no more.
"""


class Stock(NamedTuple):
    """What a batch offers to lines: free pieces, when they are there, and their last good day."""

    free: int
    arrival: date
    expiry: date

    @classmethod
    def of(cls, batch: Batch) -> Self:
        return cls(batch.free, batch.arrival, batch.expiry)

    def covers(self, other: "Stock") -> bool:
        """Whether it may serve every line that the other one may serve."""
        return (
            self.free >= other.free
            and self.arrival <= other.arrival
            and self.expiry >= other.expiry
        )

    def good_days(self, today: date) -> int:
        """For how many days it stays good once it is there."""
        return (self.expiry - max(today, self.arrival)).days


def best(stocks: Iterable[Stock]) -> list[Stock]:
    """The stocks that no other one covers."""
    kept: list[Stock] = []
    for stock in sorted(set(stocks), key=lambda each: (each.arrival, -each.free)):
        if not any(other.covers(stock) for other in kept):
            kept.append(stock)
    return kept


class LineQueue:
    """The stored lines that some stock may serve, and the lines that this unit of work changed.

    It holds all stored lines that the stock asked for may serve, up to a place in the order. So a
    question about no more than that stock needs no query.
    """

    def __init__(self) -> None:
        self._lines: dict[tuple[str, int], Line] = {}
        self._asked: list[Stock] = []
        self._end: Order | None = None

    def add(self, line: Line) -> None:
        """A line that may have changed since it was stored."""
        self._lines[line.orderid, line.part] = line

    def remove(self, line: Line) -> None:
        self._lines.pop((line.orderid, line.part), None)

    def __iter__(self) -> Iterator[Line]:
        return iter(self._lines.values())

    def first(
        self, stocks: Sequence[Stock], fits: Callable[[Line], bool], fetch: Fetch
    ) -> Line | None:
        """The first line that fits. `stocks` decide which stored lines are asked for.

        A stored line that did not change fits only if some of these stocks may serve it.
        """
        new = [s for s in stocks if not any(known.covers(s) for known in self._asked)]
        if new:
            self._asked = best([*self._asked, *new])
            self._ask(new, None, fetch)
        while True:
            found = min(filter(fits, self._lines.values()), key=service_order, default=None)
            if self._end is None or (found and service_order(found) <= self._end):
                return found
            if not stocks:
                return found
            # Stock that is gone by now served more lines, perhaps very many: not for those.
            self._asked = best(stocks)
            behind, self._end = self._end, None
            self._ask(self._asked, behind, fetch)

    def _ask(self, stocks: Sequence[Stock], behind: Order | None, fetch: Fetch) -> None:
        """Add the next stored lines that the stocks may serve; note how far they are known."""
        lines, end = fetch(stocks, behind)
        for line in lines:
            self.add(line)
        self._end = min(filter(None, (end, self._end)), default=None)
