"""The worker's drain over 1,000 skus and on one, and the whole way of a command."""

from tests.bench import stock
from tests.bench.bench import Bench
from tests.bench.end_to_end import EndToEnd
from tests.bench.figures import Figure, Row
from tests.bench.limits import AllocateLimit, Best
from tests.bench.worker import Worker

_LIMIT = "one transaction a command by psycopg2, best of 1, 2, 4, 8 connections"
END_TO_END = Row(
    title="end to end: enqueue to both subscribers' commits, 1,000 skus",
    unit="/s",
    limit=_LIMIT,
    at_least=2.0,
)
PROCESSOR_TIME = Row(
    title="processor time of all processes a command, end to end",
    unit="us",
    limit="processor time of that transaction, client and PostgreSQL",
    at_most=0.5,
)
DRAIN = Row(
    title="worker drain, commands queued, 1,000 skus", unit="/s", limit=_LIMIT, at_least=4.0
)
HOT = Row(title="worker drain, one hot sku", unit="/s", limit=f"{_LIMIT}, on it", at_least=8.0)


class Throughput:
    """The first three rows share a limit, which is measured anew in each round."""

    rows = (END_TO_END, PROCESSOR_TIME, DRAIN, HOT)

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._skus = stock.skus(1000)
        self._found: dict[Row, list[float]] = {row: [] for row in self.rows}
        self._limits: list[Best] = []
        self._hot_limits: list[Best] = []

    def prepare(self) -> None:
        self._bench.show.step("throughput: starting the processes")
        skus = [*self._skus, stock.HOT]
        self._limit = AllocateLimit(self._bench, skus)
        self._worker = Worker(self._bench, "drain", skus)
        self._whole = EndToEnd(self._bench, "end-to-end", self._skus)

    def round(self, number: int) -> None:
        show = self._bench.show
        show.step(f"throughput, round {number}: the limit")
        self._limits.append(self._limit.best(f"limit{number}-", self._skus))
        show.step(f"throughput, round {number}: drain")
        self._found[DRAIN].append(self._worker.drain(f"drain{number}-", self._skus))
        show.step(f"throughput, round {number}: end to end")
        rate, cost = self._whole.measure(f"e{number}-")
        self._found[END_TO_END].append(rate)
        self._found[PROCESSOR_TIME].append(cost)
        show.step(f"throughput, round {number}: one hot sku, the limit")
        self._hot_limits.append(self._limit.best(f"hot-limit{number}-", [stock.HOT]))
        show.step(f"throughput, round {number}: one hot sku")
        self._found[HOT].append(self._worker.drain(f"hot{number}-", [stock.HOT]))
        show.say(
            f"throughput, round {number}: end to end {rate:,.0f}/s and {cost:,.0f} us, drain"
            f" {self._found[DRAIN][-1]:,.0f}/s, the limit {self._limits[-1]};"
            f" hot {self._found[HOT][-1]:,.0f}/s, the limit {self._hot_limits[-1]}"
        )

    def figures(self) -> list[Figure]:
        self._bench.show.step("throughput: proving the books")
        self._limit.check()
        self._worker.deployment.check()
        self._whole.deployment.check()
        rates, costs, hot = (
            [best.rate for best in self._limits],
            [best.cost for best in self._limits],
            [best.rate for best in self._hot_limits],
        )
        details = {"limit by connections": [best.rates for best in self._limits]}
        hot_details = {"limit by connections": [best.rates for best in self._hot_limits]}
        return [
            Figure(END_TO_END, self._found[END_TO_END], rates, details=details),
            Figure(PROCESSOR_TIME, self._found[PROCESSOR_TIME], costs),
            Figure(DRAIN, self._found[DRAIN], rates),
            Figure(HOT, self._found[HOT], hot, details=hot_details),
        ]
