"""Row 4: from enqueuing a command to a subscriber's commit, at a fifth of the drain rate."""

import statistics
from collections.abc import Collection, Mapping

from tests.bench import bare_hops, committed, stock
from tests.bench.bench import Bench
from tests.bench.deployment import COMMANDS, Deployment
from tests.bench.figures import Figure, Goal, Spread
from tests.bench.helper import Helper
from tests.bench.queued import allocate_messages, publish
from tests.bench.servers import dsn, query
from tests.bench.worker import Worker
from tests.waiting import eventually

SHARE = 5
SECONDS = 8.0
WARM_UP = 0.1
"""The share of each round's messages that comes first and does not count, on either side."""
_CAME = """
    SELECT orderid, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float FROM picks
    WHERE orderid LIKE %s"""

Moments = Mapping[str, float]


class Latency:
    """All processes run; each order is followed by its name."""

    def __init__(self, bench: Bench, _wanted: Collection[str]) -> None:
        self._bench = bench
        self._skus = stock.skus(1000)
        self._rate = 0.0
        # Of each round: the median and the 99th percentile, in milliseconds.
        self._limits: list[tuple[float, float]] = []
        self._found: list[tuple[float, float]] = []

    def prepare(self) -> None:
        bench = self._bench
        if not bench.drain_rate:
            bench.show.step("latency: the drain rate, a fifth of which is the pace")
            worker = Worker(bench, "drain-rate", self._skus)
            bench.drain_rate = worker.drain("rate-", self._skus)
            worker.deployment.stop("worker")
        self._rate = bench.drain_rate / SHARE
        self._number = max(20, round(self._rate * SECONDS * bench.scale))
        bench.show.step("latency: starting the processes")
        self._deployment = Deployment(bench.servers, "latency")
        stock.put_on_the_shelf(self._deployment.database, self._skus)
        self._deployment.start("worker", "relay", "warehouse", "notification")
        for database in (self._deployment.warehouse, self._deployment.notification):
            stock.expect_the_second_event(database, self._skus)
        self._start_helpers()
        warm_up = allocate_messages("warm-up-", 400, self._skus)
        publish(self._deployment.broker, warm_up.values())
        self._wait_for_picks("warm-up-", 400)

    def round(self, number: int) -> None:
        show = self._bench.show
        show.step(f"latency, round {number}: bare hops at {self._rate:,.0f}/s")
        self._limits.append(self._bare(f"bare{number}-"))
        show.step(f"latency, round {number}: the service at {self._rate:,.0f}/s")
        self._found.append(self._whole(f"latency{number}-"))
        (limit_50, limit_99), (found_50, found_99) = self._limits[-1], self._found[-1]
        show.say(
            f"latency, round {number}: p50 {found_50:.1f} ms, p99 {found_99:.1f} ms;"
            f" the limit {limit_50:.1f} and {limit_99:.1f} ms"
        )

    def figures(self) -> list[Figure]:
        self._bench.show.step("latency: proving the books")
        self._deployment.check()
        return [self._figure("p50", 0, 3.0), self._figure("p99", 1, 5.0)]

    def _start_helpers(self) -> None:
        servers, broker = self._bench.servers, self._deployment.broker
        database = servers.empty_database()
        servers.opened.callback(servers.drop, database)
        query(database, bare_hops.TABLE)
        bare_hops.declare(broker)
        module = "tests.bench.bare_hops"
        self._first = Helper(module, "first", broker, dsn(database))
        self._last = Helper(module, "last", broker)
        self._pacer = Helper("tests.bench.pacing", broker)
        for helper in (self._first, self._last, self._pacer):
            servers.opened.callback(helper.close)

    def _bare(self, prefix: str) -> tuple[float, float]:
        self._pacer.ask("prepare", prefix=prefix, number=self._number, skus=self._skus)
        self._first.send("run", number=self._number)
        self._last.send("run", number=self._number)
        sent = self._pacer.ask("run", rate=self._rate, exchange="", routing_key=bare_hops.FIRST)
        self._first.answer()
        return self._percentiles(sent, self._last.answer())

    def _whole(self, prefix: str) -> tuple[float, float]:
        self._pacer.ask("prepare", prefix=prefix, number=self._number, skus=self._skus)
        sent = self._pacer.ask("run", rate=self._rate, exchange=COMMANDS, routing_key=COMMANDS)
        self._wait_for_picks(prefix, self._number)
        committed.allocated(self._deployment.database, prefix, self._number)
        came = dict(query(self._deployment.warehouse, _CAME, (f"{prefix}%",)))
        return self._percentiles(sent, came)

    def _percentiles(self, sent: Moments, came: Moments) -> tuple[float, float]:
        """Of those after the warm-up, which came in the order in which they were sent."""
        counted = list(sent)[round(WARM_UP * len(sent)) :]
        took = [(came[orderid] - sent[orderid]) * 1000 for orderid in counted]
        return statistics.median(took), statistics.quantiles(took, n=100)[98]

    def _wait_for_picks(self, prefix: str, number: int) -> None:
        counted = "SELECT count(*) FROM picks WHERE orderid LIKE %s"
        eventually(
            lambda: query(self._deployment.warehouse, counted, (f"{prefix}%",)) == [(number,)],
            within=60,
            what=f"{number} picks of {prefix}",
        )

    def _figure(self, name: str, which: int, most: float) -> Figure:
        found = [pair[which] for pair in self._found]
        limits = [pair[which] for pair in self._limits]
        return Figure(
            name=f"latency {name}: enqueue to the warehouse's commit, {self._rate:,.0f}/s",
            unit="ms",
            measured=Spread.of(found),
            limit=Spread.of(limits),
            limit_name="publish, consume, commit, publish, consume",
            goals=(Goal.between("of the limit", found, limits, at_most=most),),
        )
