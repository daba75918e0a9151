"""A long drain: its rate at the end beside its rate at the start, and the worker's memory."""

from pathlib import Path

from tests.bench import committed, stock
from tests.bench.bench import Bench
from tests.bench.deployment import COMMANDS, Deployment
from tests.bench.figures import Figure, Row
from tests.bench.queued import allocate_messages, publish
from tests.bench.servers import query
from tests.bench.worker import Worker
from tests.waiting import eventually

NUMBER = 1_000_000
EARLY, LATE = 20_000, 200_000
FIRST, LAST = 10, 60
"""Seconds at the start and at the end, over which the rates are taken."""
CHUNK = 5_000
SAMPLES = 3
SUSTAINED = Row(
    title=f"sustained worker drain: the last minute of {NUMBER:,} commands",
    unit="/s",
    limit=f"the first {FIRST} seconds",
    at_least=0.9,
)
MEMORY = Row(
    title=f"the worker's memory after {LATE:,} commands",
    unit="MB",
    limit=f"after {EARLY:,}",
    at_most=1.1,
)
_MOMENTS = """
    WITH moments AS (
        SELECT pg_xact_commit_timestamp(xmin) AS at FROM allocations
        WHERE orderid LIKE 'sustained-%%'),
    ends AS (SELECT min(at) AS first, max(at) AS last FROM moments)"""
_RATES = f"""{_MOMENTS}
    SELECT count(*) FILTER (WHERE at < first + %(first)s * interval '1 second')::float / %(first)s,
        count(*) FILTER (WHERE at > last - %(last)s * interval '1 second')::float / %(last)s
    FROM moments, ends"""
_CURVE = f"""{_MOMENTS}
    SELECT count(*)::float / %(first)s FROM moments, ends
    GROUP BY floor(extract(epoch FROM at - first) / %(first)s)
    ORDER BY min(at)"""


class Sustained:
    """One long drain in place of rounds. The publisher runs all along, and the queue stays short.

    So the first seconds and the last ones have the same work beside the worker's own.
    """

    rows = (SUSTAINED, MEMORY)

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._number, self._chunk = bench.some(NUMBER), bench.some(CHUNK)
        self._megabytes: dict[int, float] = {}

    def prepare(self) -> None:
        self._bench.show.step("sustained: starting a worker")
        self._skus = stock.skus(1000)
        self._deployment = Worker(self._bench, "sustained", self._skus).deployment
        query(self._deployment.database, "CHECKPOINT")

    def round(self, number: int) -> None:
        if number > 1:
            return
        show = self._bench.show
        show.step(f"sustained: {self._number:,} commands")
        for sent in range(0, self._number, self._chunk):
            messages = allocate_messages(f"sustained-{sent}-", self._chunk, self._skus)
            eventually(
                lambda: self._deployment.depth(COMMANDS) < 2 * self._chunk,
                within=60,
                what="a short queue",
            )
            publish(self._deployment.broker, messages.values())
            self._megabytes[sent + self._chunk] = megabytes(self._deployment)
            show.done((sent + self._chunk) / self._number)
        committed.wait_for(self._deployment.database, "sustained-", self._number, within=60)

    def figures(self) -> list[Figure]:
        self._bench.show.step("sustained: proving the books")
        self._deployment.check()
        scale = self._bench.scale
        spans = {"first": FIRST * scale, "last": LAST * scale}
        [(first, last)] = query(self._deployment.database, _RATES, spans)
        curve = [round(rate) for (rate,) in query(self._deployment.database, _CURVE, spans)]
        return [
            Figure(SUSTAINED, [last], [first], details={f"rate of each {FIRST} seconds": curve}),
            Figure(
                MEMORY,
                self._looks_from(LATE),
                self._looks_from(EARLY),
                notes=("main process and pool (PSS)",),
            ),
        ]

    def _looks_from(self, commands: int) -> list[float]:
        """The worker's megabytes a few times, from that number of commands on."""
        begin = self._bench.some(commands)
        return [found for sent, found in self._megabytes.items() if sent >= begin][:SAMPLES]


def megabytes(deployment: Deployment) -> float:
    """What the worker's processes have of their own, and their shares of what they share."""
    return sum(_proportional(pid) for pid in deployment.pids("worker")) / 1024


def _proportional(pid: int) -> int:
    """Kilobytes (PSS)."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in told.splitlines() if line.startswith("Pss:"))
