"""From enqueuing a command: alone to a subscriber's queue, at a pace to a subscriber's commit."""

import statistics
from collections.abc import Mapping

from kombu import Connection

from tests.bench import bare_hops, committed, stock
from tests.bench.bench import Bench
from tests.bench.deployment import COMMANDS
from tests.bench.end_to_end import EndToEnd
from tests.bench.figures import Figure, Row
from tests.bench.helper import Helper
from tests.bench.servers import dsn, query
from tests.waiting import eventually

EVENTS = "allocation.events"
SHARE = 5
SECONDS = 8.0
LONE_RATE = 20.0
"""Commands a second, each of which finds the service idle."""
LONE = 100
WARM_UP = 0.1
"""The share of each round's messages that comes first and does not count, on either side."""
_LIMIT = "the bare hops at that pace: publish, consume, commit, publish, consume"
LONE_COMMAND = Row(
    title="lone command, enqueue to a subscriber's queue, p50", unit="ms", limit=_LIMIT, at_most=2.5
)
P50, P99 = (
    Row(
        title=f"latency at a fifth of the end-to-end rate, to the warehouse's commit, {name}",
        unit="ms",
        limit=_LIMIT,
        at_most=most,
    )
    for name, most in (("p50", 3.0), ("p99", 5.0))
)
_CAME = """
    SELECT orderid, extract(epoch FROM pg_xact_commit_timestamp(xmin))::float FROM picks
    WHERE orderid LIKE %s"""

Moments = Mapping[str, float]


class Latency:
    """All processes run; each order is followed by its name."""

    rows = (LONE_COMMAND, P50, P99)

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._skus = stock.skus(1000)
        self._found: dict[Row, list[float]] = {row: [] for row in self.rows}
        self._limits: dict[Row, list[float]] = {row: [] for row in self.rows}

    def prepare(self) -> None:
        bench = self._bench
        bench.show.step("latency: starting the processes")
        whole = EndToEnd(bench, "latency", self._skus)
        self._deployment = whole.deployment
        if not bench.end_to_end_rate:
            bench.show.step("latency: the end-to-end rate, a fifth of which is the pace")
            whole.measure("rate-")
        self._rate = bench.end_to_end_rate / SHARE
        self._number = bench.some(round(self._rate * SECONDS))
        self._start_helpers()

    def round(self, number: int) -> None:
        self._lone(number)
        show, rate = self._bench.show, self._rate
        show.step(f"latency, round {number}: bare hops at {rate:,.0f}/s")
        limits = self._bare(f"bare{number}-", rate, self._number)
        show.step(f"latency, round {number}: the service at {rate:,.0f}/s")
        found = self._to_the_commit(f"latency{number}-")
        for row, one, limit in zip((P50, P99), found, limits, strict=True):
            self._found[row].append(one)
            self._limits[row].append(limit)
        show.say(
            f"latency, round {number}: p50 {found[0]:.1f} ms, p99 {found[1]:.1f} ms;"
            f" the limit {limits[0]:.1f} and {limits[1]:.1f} ms"
        )

    def figures(self) -> list[Figure]:
        self._bench.show.step("latency: proving the books")
        self._deployment.check()
        note = f"{self._rate:,.0f}/s"
        return [
            Figure(row, self._found[row], self._limits[row], () if row is LONE_COMMAND else (note,))
            for row in self.rows
        ]

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

    def _lone(self, number: int) -> None:
        show, lone = self._bench.show, self._bench.some(LONE)
        show.step(f"latency, round {number}: lone messages by bare hops")
        limit, _ = self._bare(f"bare-lone{number}-", LONE_RATE, lone)
        show.step(f"latency, round {number}: lone commands")
        found, _ = self._to_the_queue(f"lone{number}-", lone)
        self._found[LONE_COMMAND].append(found)
        self._limits[LONE_COMMAND].append(limit)
        show.say(f"latency, round {number}: lone {found:.1f} ms, the limit {limit:.1f} ms")

    def _bare(self, prefix: str, rate: float, number: int) -> tuple[float, float]:
        self._pacer.ask("prepare", prefix=prefix, number=number, skus=self._skus)
        self._first.send("run", number=number)
        self._last.send("run", number=number)
        sent = self._pacer.ask("run", rate=rate, exchange="", routing_key=bare_hops.FIRST)
        self._first.answer()
        return _percentiles(sent, self._last.answer())

    def _to_the_queue(self, prefix: str, number: int) -> tuple[float, float]:
        """The last of the bare hops is a subscriber meanwhile."""
        self._pacer.ask("prepare", prefix=prefix, number=number, skus=self._skus)
        with Connection(self._deployment.broker) as connection:
            channel = connection.channel()
            channel.queue_bind(bare_hops.LAST, EVENTS)
            self._last.send("run", number=number)
            sent = self._pacer.ask("run", rate=LONE_RATE, exchange=COMMANDS, routing_key=COMMANDS)
            came = self._last.answer()
            channel.queue_unbind(bare_hops.LAST, EVENTS)
        self._wait_for_picks(prefix, number)
        return _percentiles(sent, came)

    def _to_the_commit(self, prefix: str) -> tuple[float, float]:
        self._pacer.ask("prepare", prefix=prefix, number=self._number, skus=self._skus)
        sent = self._pacer.ask("run", rate=self._rate, exchange=COMMANDS, routing_key=COMMANDS)
        self._wait_for_picks(prefix, self._number)
        committed.allocated(self._deployment.database, prefix, self._number)
        return _percentiles(sent, dict(query(self._deployment.warehouse, _CAME, (f"{prefix}%",))))

    def _wait_for_picks(self, prefix: str, number: int) -> None:
        counted = "SELECT count(*) FROM picks WHERE orderid LIKE %s"
        eventually(
            lambda: query(self._deployment.warehouse, counted, (f"{prefix}%",)) == [(number,)],
            within=60,
            what=f"{number} picks of {prefix}",
        )


def _percentiles(sent: Moments, came: Moments) -> tuple[float, float]:
    """p50 and p99 in milliseconds, after the warm-up, in the order in which they were sent."""
    counted = list(sent)[round(WARM_UP * len(sent)) :]
    took = [(came[orderid] - sent[orderid]) * 1000 for orderid in counted]
    return statistics.median(took), statistics.quantiles(took, n=100)[98]
