"""Outcomes that are waited for over HTTP: how soon one caller has them, how many 32 get."""

import statistics
import time
from collections.abc import Collection, Sequence

from tests.bench import bare_hops, stock
from tests.bench.accepting import NO_PRESSURE, start_bare
from tests.bench.bench import Bench
from tests.bench.committed import Incomplete
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, Goal, Spread
from tests.bench.helper import Helper
from tests.bench.http_load import WAITED
from tests.bench.servers import dsn, query
from tests.servers.ports import free_ports

CALLERS = 32
PROCESSES = 2
SECONDS = 4.0
PREFER = "wait=30"


class Waiting:
    """API, relay and worker; beside them a bare route with its consumer, and an API alone."""

    def __init__(self, bench: Bench, _wanted: Collection[str]) -> None:
        self._bench = bench
        self._skus = stock.skus(1000)
        self._bare_p50s: list[float] = []
        self._p50s: list[float] = []
        self._accepted: list[float] = []
        self._answered: list[float] = []

    def prepare(self) -> None:
        servers = self._bench.servers
        self._bench.show.step("waiting: starting the processes")
        port, alone_port, bare_port = free_ports(3)
        self._deployment = Deployment(servers, "waiting", ALLOCATION_PORT=str(port))
        stock.put_on_the_shelf(self._deployment.database, self._skus)
        self._deployment.start("worker", "relay", "api")
        self._alone = Deployment(servers, "alone", ALLOCATION_PORT=str(alone_port), **NO_PRESSURE)
        self._alone.start("api")
        self._start_bare(bare_port)
        self._callers, self._alone_callers, self._bare_callers = (
            [Helper("tests.bench.http_load", str(each)) for _ in range(PROCESSES)]
            for each in (port, alone_port, bare_port)
        )
        for helper in (*self._callers, *self._alone_callers, *self._bare_callers):
            servers.opened.callback(helper.close)
        self._one(self._bare_callers, "warm-up-", 1.0)
        self._many(self._callers, "warm-up-", 1.0, f"201 {WAITED}", PREFER)
        self._many(self._alone_callers, "warm-up-", 1.0, "202", None)

    def round(self, number: int) -> None:
        show, seconds = self._bench.show, SECONDS * self._bench.scale
        show.step(f"waiting, round {number}: one caller of the bare route")
        self._bare_p50s.append(self._one(self._bare_callers, f"bare{number}-", seconds))
        show.step(f"waiting, round {number}: one caller")
        self._p50s.append(self._one(self._callers, f"one{number}-", seconds))
        show.step(f"waiting, round {number}: {CALLERS} callers of the API alone")
        accepted = self._many(self._alone_callers, f"alone{number}-", seconds, "202", None)
        self._accepted.append(accepted)
        show.step(f"waiting, round {number}: {CALLERS} callers")
        answered = self._many(self._callers, f"many{number}-", seconds, f"201 {WAITED}", PREFER)
        self._answered.append(answered)
        show.say(
            f"waiting, round {number}: p50 {self._p50s[-1]:.1f} ms, the limit"
            f" {self._bare_p50s[-1]:.1f} ms; {answered:,.0f} answers/s, the limit {accepted:,.0f}/s"
        )

    def figures(self) -> list[Figure]:
        self._bench.show.step("waiting: proving the books")
        self._deployment.check()
        p50s, answered = (self._p50s, self._bare_p50s), (self._answered, self._accepted)
        return [
            Figure(
                name="HTTP, waited for: one caller, p50",
                unit="ms",
                measured=Spread.of(self._p50s),
                limit=Spread.of(self._bare_p50s),
                limit_name="a bare route that publishes, and waits for a consumer that commits",
                goals=(Goal.between("of the limit", *p50s, at_most=2.0),),
            ),
            Figure(
                name=f"HTTP, waited for: {CALLERS} callers, answers/s, none without waiting",
                unit="/s",
                measured=Spread.of(self._answered),
                limit=Spread.of(self._accepted),
                limit_name=f"accepting alone, {CALLERS} callers",
                goals=(Goal.between("of the limit", *answered, at_least=0.6),),
            ),
        ]

    def _start_bare(self, port: int) -> None:
        servers, broker = self._bench.servers, self._deployment.broker
        database = servers.empty_database()
        servers.opened.callback(servers.drop, database)
        query(database, bare_hops.TABLE)
        bare_hops.declare(broker)
        command = ["-m", "tests.bench.bare_waiting", broker, dsn(database)]
        consumer = servers.process(command, "bare-consumer", {}).start()
        servers.opened.callback(consumer.kill)
        start_bare(servers, "bare_waiting", port, BARE_BROKER=broker)

    def _one(self, callers: Sequence[Helper], prefix: str, seconds: float) -> float:
        """The median of what one caller's responses take, in milliseconds."""
        until = time.time() + seconds
        run = {"prefix": prefix, "lines": 1, "until": until, "threads": 1, "prefer": PREFER}
        result = callers[0].ask("run", **run)
        if set(result["statuses"]) != {f"201 {WAITED}"}:
            raise Incomplete(f"one caller was answered {result['statuses']}: {result['answer']}")
        return 1000 * statistics.median(result["took"])

    def _many(
        self,
        callers: Sequence[Helper],
        prefix: str,
        seconds: float,
        status: str,
        prefer: str | None,
    ) -> float:
        """Responses a second to CALLERS callers, all of which must have this status."""
        until = time.time() + seconds
        threads = CALLERS // len(callers)
        for number, caller in enumerate(callers):
            run = {"lines": 1, "until": until, "threads": threads, "prefer": prefer}
            caller.send("run", prefix=f"{prefix}{number}-", **run)
        results = [caller.answer() for caller in callers]
        statuses = {each for result in results for each in result["statuses"]}
        if statuses != {status}:
            raise Incomplete(f"{CALLERS} callers were answered {statuses}, not {status}")
        begun = min(result["begun"] for result in results)
        ended = max(result["ended"] for result in results)
        return float(sum(len(result["took"]) for result in results) / (ended - begun))
