"""Row 7: what an allocation costs with much in the past, beside what it costs with nothing."""

import statistics
from collections.abc import Callable, Collection
from concurrent.futures import ThreadPoolExecutor
from functools import partial

from allocation.domain.commands import Allocate
from tests.bench import past
from tests.bench.bench import Bench
from tests.bench.deciding import Decider, collected_before
from tests.bench.figures import Figure, Goal, Spread
from tests.bench.servers import run

TURNS = 10
"""In each round the columns take that many turns."""
COMMANDS = 15
"""Of one column in one turn."""
WARM_UP = 50
_FIRST = "0 past allocations"

Seed = Callable[[str], None]


class Growth:
    """Each column has a database of its own: also the tables and indexes of the first are small."""

    def __init__(self, bench: Bench, _wanted: Collection[str]) -> None:
        self._bench = bench
        self._seeds: dict[str, Seed] = {
            _FIRST: partial(past.past_allocations, lines=0),
            **{
                f"{lines:,} past allocations": partial(past.past_allocations, lines=lines)
                for lines in (bench.some(10_000), bench.some(100_000), bench.some(1_000_000))
            },
            f"{bench.some(100_000):,} lines waiting": partial(
                past.waiting, lines=bench.some(100_000)
            ),
            f"{bench.some(10_000):,} exhausted batches": partial(
                past.exhausted_batches, batches=bench.some(10_000)
            ),
        }
        self._databases: dict[str, str] = {}
        self._deciders: dict[str, Decider] = {}
        self._medians: dict[str, list[float]] = {name: [] for name in self._seeds}
        self._orders = 0

    def prepare(self) -> None:
        servers = self._bench.servers
        for name, seed in self._seeds.items():
            self._bench.show.step(f"growth: making {name}")
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
        first = self._medians[_FIRST]
        self._bench.show.step("growth: proving the books")
        with ThreadPoolExecutor(2) as threads:
            list(threads.map(_check, self._databases.values()))
        return [
            Figure(
                name=f"growth: allocate with {name}",
                unit="ms",
                measured=Spread.of(column),
                limit=Spread.of(first),
                limit_name=f"with {_FIRST}",
                goals=(Goal.between("of the first column", column, first, at_most=1.15),),
            )
            for name, column in self._medians.items()
            if name != _FIRST
        ]

    def _allocate(self, name: str, number: int) -> list[float]:
        """Milliseconds of each; raises when one was not promised stock."""
        times = []
        for _ in range(number):
            self._orders += 1
            command = Allocate(f"order-{self._orders}", past.SKU, 1)
            took, outcome = self._deciders[name].decide(command)
            if outcome.facts.get("status") != "allocated":
                raise RuntimeError(f"growth: {name}: {outcome}")
            times.append(took)
        return times


def _check(database: str) -> None:
    run("allocation", "check", env={"ALLOCATION_DATABASE_URL": database})
