"""What an allocation costs with much in the past, beside what it costs with nothing."""

import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import NamedTuple

from allocation.domain.commands import Allocate
from tests.bench import past
from tests.bench.bench import Bench
from tests.bench.deciding import Decider, collected_before
from tests.bench.figures import Figure, Row
from tests.bench.servers import run

TURNS = 10
"""In each round the columns take that many turns."""
COMMANDS = 15
"""Of one column in one turn."""
WARM_UP = 50


class Column(NamedTuple):
    """A database with that many of something in its past."""

    row: Row
    seed: Callable[[str, int], None]
    number: int


def _column(number: int, what: str, seed: Callable[[str, int], None]) -> Column:
    row = Row(
        title=f"growth: allocate with {number:,} {what}",
        unit="ms",
        limit="with 0 past allocations",
        at_most=1.15,
    )
    return Column(row, seed, number)


COLUMNS = (
    _column(10_000, "past allocations", past.past_allocations),
    _column(100_000, "past allocations", past.past_allocations),
    _column(1_000_000, "past allocations", past.past_allocations),
    _column(100_000, "lines waiting", past.waiting),
    _column(10_000, "exhausted batches", past.exhausted_batches),
)
_FIRST = "growth: allocate with 0 past allocations"


class Growth:
    """Each column has a database of its own: also the tables and indexes of the first are small."""

    rows = tuple(column.row for column in COLUMNS)

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._seeds: dict[str, Callable[[str], None]] = {
            _FIRST: partial(past.past_allocations, lines=0)
        }
        for row, seed, number in COLUMNS:
            self._seeds[row.title] = partial(_seed, seed, bench.some(number))
        self._databases: dict[str, str] = {}
        self._deciders: dict[str, Decider] = {}
        self._medians: dict[str, list[float]] = {name: [] for name in self._seeds}
        self._orders = 0

    def prepare(self) -> None:
        servers = self._bench.servers
        for name, seed in self._seeds.items():
            self._bench.show.step(name)
            self._databases[name] = servers.database()
            servers.opened.callback(servers.drop, self._databases[name])
            seed(self._databases[name])
            self._deciders[name] = Decider(self._databases[name])
            servers.opened.callback(self._deciders[name].close)
            self._allocate(name, WARM_UP)

    def round(self, number: int) -> None:
        self._bench.show.step(f"growth, round {number}: the columns in turns")
        times: dict[str, list[float]] = {name: [] for name in self._seeds}
        for turn in range(TURNS):
            with collected_before():
                for name in self._seeds:
                    times[name] += self._allocate(name, COMMANDS)
            self._bench.show.done((turn + 1) / TURNS)
        for name, column in times.items():
            self._medians[name].append(statistics.median(column))
        shown = ", ".join(f"{rounds[-1]:.2f}" for rounds in self._medians.values())
        self._bench.show.say(f"growth, round {number}: {shown} ms")

    def figures(self) -> list[Figure]:
        self._bench.show.step("growth: proving the books")
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(_check, self._databases.values()))
        return [Figure(row, self._medians[row.title], self._medians[_FIRST]) for row in self.rows]

    def _allocate(self, name: str, number: int) -> list[float]:
        """Milliseconds of each; raises when one was not promised stock."""
        times = []
        for _ in range(number):
            self._orders += 1
            command = Allocate(f"order-{self._orders}", past.SKU, 1)
            took, outcome = self._deciders[name].decide(command)
            if outcome.facts.get("status") != "allocated":
                raise RuntimeError(f"{name}: {outcome}")
            times.append(took)
        return times


def _seed(seed: Callable[[str, int], None], number: int, database: str) -> None:
    seed(database, number)


def _check(database: str) -> None:
    run("allocation", "check", env={"ALLOCATION_DATABASE_URL": database})
