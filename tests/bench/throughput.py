"""Rows 1 to 3: the worker's drain over 1,000 skus and on one, and the whole way of an event."""

import statistics
from collections.abc import Collection

from tests.bench import stock
from tests.bench.bench import Bench
from tests.bench.end_to_end import EndToEnd
from tests.bench.figures import Figure, Goal, Spread
from tests.bench.limits import AllocateLimit, Best
from tests.bench.worker import Worker

DRAIN, HOT, END_TO_END = "drain", "hot", "end-to-end"
_LIMIT = "one transaction a command by psycopg2, best of 1, 2, 4, 8"


class Throughput:
    """They share the first row's limit, which is measured anew in each round."""

    def __init__(self, bench: Bench, wanted: Collection[str]) -> None:
        self._bench = bench
        self._wanted = set(wanted)
        if HOT in wanted:
            self._wanted.add(DRAIN)  # which it is compared to
        self._skus = stock.skus(1000)
        self._rates: dict[str, list[float]] = {name: [] for name in (DRAIN, HOT, END_TO_END)}
        self._limits: dict[str, list[Best]] = {DRAIN: [], HOT: []}

    def prepare(self) -> None:
        self._bench.show.step("throughput: starting the processes")
        skus = [*self._skus, stock.HOT]
        self._limit = AllocateLimit(self._bench, skus)
        self._worker = self._whole = None
        if DRAIN in self._wanted:
            self._worker = Worker(self._bench, "drain", skus)
        if END_TO_END in self._wanted:
            self._whole = EndToEnd(self._bench, self._skus)

    def round(self, number: int) -> None:
        self._measure_limit(DRAIN, number, self._skus)
        if self._worker:
            self._drain(DRAIN, number, self._skus)
        if self._whole:
            self._say(END_TO_END, number)
            rate = self._whole.measure(f"e{number}-")
            self._found(END_TO_END, number, rate)
        if HOT in self._wanted:
            self._measure_limit(HOT, number, [stock.HOT])
            self._drain(HOT, number, [stock.HOT])

    def figures(self) -> list[Figure]:
        self._bench.show.step("throughput: proving the books")
        self._limit.check()
        if self._worker:
            self._worker.deployment.check()
        if self._whole:
            self._whole.check()
        return [self._figure(name) for name in (DRAIN, HOT, END_TO_END) if name in self._wanted]

    def _measure_limit(self, name: str, number: int, skus: list[str]) -> None:
        self._bench.show.step(f"{name}, round {number}: the limit")
        best = self._limit.best(f"{name}{number}-", skus)
        self._limits[name].append(best)
        self._bench.show.say(f"{name}, round {number}: the limit is {best}")

    def _drain(self, name: str, number: int, skus: list[str]) -> None:
        assert self._worker is not None
        self._say(name, number)
        rate = self._worker.drain(f"{name}{number}-", skus)
        self._found(name, number, rate)

    def _say(self, name: str, number: int) -> None:
        self._bench.show.step(f"{name}, round {number}: the service")

    def _found(self, name: str, number: int, rate: float) -> None:
        self._rates[name].append(rate)
        if name == DRAIN:
            self._bench.drain_rate = statistics.median(self._rates[DRAIN])
        self._bench.show.say(f"{name}, round {number}: {rate:,.0f}/s")

    def _figure(self, name: str) -> Figure:
        rates = self._rates[name]
        bests = self._limits[HOT if name == HOT else DRAIN]
        limits = [best.rate for best in bests]
        goals: list[Goal]
        if name == DRAIN:
            title = "worker drain, commands queued, 1,000 skus"
            goals = [Goal.between("of the limit", rates, limits, at_least=1.0)]
        elif name == HOT:
            title = "worker drain, one hot sku"
            goals = [
                Goal.between("of the limit", rates, limits, at_least=4.0),
                Goal.between("of 1,000 skus", rates, self._rates[DRAIN], at_least=0.9),
            ]
        else:
            title = "end to end: enqueue to the warehouse's commit"
            goals = [Goal.between("of the limit", rates, limits, at_least=0.5)]
        return Figure(
            name=title,
            unit="/s",
            measured=Spread.of(rates),
            limit=Spread.of(limits),
            limit_name=f"{_LIMIT} {self._limit.kind}",
            goals=tuple(goals),
            details={"limit by connections": [best.rates for best in bests]},
        )
