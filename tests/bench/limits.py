"""The limit of allocating: `one_transaction` on 1, 2, 4 and 8 connections."""

import statistics
from dataclasses import dataclass

from tests.bench import committed, processor_time, stock
from tests.bench.bench import Bench
from tests.bench.helper import Helper, ask_all
from tests.bench.servers import dsn, query, run

CONNECTIONS = (1, 2, 4, 8)
SECONDS = 1.5
"""How long each number of connections works, about."""
_EXPECTED = {1: 700, 2: 1400, 4: 2000, 8: 2600}
_EXPECTED_ON_ONE = dict.fromkeys(CONNECTIONS, 800)


@dataclass(frozen=True, slots=True)
class Best:
    """The fastest number of connections of one round, in commands a second.

    `cost`: microseconds of processor time a command, of the client and of PostgreSQL.
    """

    rate: float
    connections: int
    cost: float
    kind: str
    rates: dict[int, float]

    def __str__(self) -> str:
        return f"{self.rate:,.0f}/s and {self.cost:,.0f} us by {self.connections} {self.kind}"


class AllocateLimit:
    """Its database is stocked as the worker's is; the processes stay connected between rounds."""

    def __init__(self, bench: Bench, skus: list[str]) -> None:
        self._seconds = SECONDS * bench.scale
        self._servers = servers = bench.servers
        self._database = servers.database()
        stock.put_on_the_shelf(self._database, skus)
        servers.opened.callback(servers.drop, self._database)
        module, most = "tests.bench.one_transaction", max(CONNECTIONS)
        self._processes = [Helper(module, dsn(self._database), "1") for _ in range(most)]
        self._threads = Helper(module, dsn(self._database), str(most))
        for helper in (*self._processes, self._threads):
            servers.opened.callback(helper.close)
        self.kind = self._faster_kind(skus)

    def best(self, prefix: str, skus: list[str]) -> Best:
        """Commands a second, each number of connections in its turn."""
        expected = _EXPECTED_ON_ONE if len(skus) == 1 else _EXPECTED
        rates, costs = {}, {}
        for connections in CONNECTIONS:
            each = 2 + round(self._seconds * expected[connections] / connections)
            name = f"{prefix}{connections}-"
            found = self._run(self.kind, name, skus, connections, each)
            rates[connections], costs[connections] = found
        fastest = max(rates, key=rates.__getitem__)
        return Best(rates[fastest], fastest, costs[fastest], self.kind, rates)

    def check(self) -> None:
        """Raises RuntimeError when `allocation check` finds its books wrong."""
        run("allocation", "check", env={"ALLOCATION_DATABASE_URL": self._database})

    def _faster_kind(self, skus: list[str]) -> str:
        """Processes or threads: what is faster here with all connections, taken in turns."""
        each = 2 + round(self._seconds * 100)
        rates: dict[str, list[float]] = {"processes": [], "threads": []}
        for turn in range(4):
            for kind, found in rates.items():
                name = f"warm-up-{kind}-{turn}-"
                found.append(self._run(kind, name, skus, max(CONNECTIONS), each)[0])
        # The first turn was to warm up.
        return max(rates, key=lambda kind: statistics.median(rates[kind][1:]))

    def _run(
        self, kind: str, prefix: str, skus: list[str], connections: int, each: int
    ) -> tuple[float, float]:
        """Commands a second, and microseconds of processor time a command."""
        at_work = self._processes[:connections] if kind == "processes" else [self._threads]
        threads = connections // len(at_work)
        for number, helper in enumerate(at_work):
            own = f"{prefix}{number}-"
            helper.send("prepare", prefix=own, number=each, skus=skus, threads=threads)
        for helper in at_work:
            helper.answer()
        query(self._database, "CHECKPOINT")
        roots = [self._servers.postgres.pid, *(helper.pid for helper in at_work)]
        before = processor_time.of_trees(roots)
        ask_all(at_work, "run")
        seconds = processor_time.of_trees(roots) - before
        number = each * connections
        rate = committed.allocated(self._database, prefix, number).rate
        return rate, seconds / number * 1e6
