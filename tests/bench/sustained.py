"""Row 9: the worker's memory after 200,000 commands, beside what it was after 20,000."""

import time
from collections.abc import Collection
from pathlib import Path

from tests.bench import committed, stock
from tests.bench.bench import Bench
from tests.bench.deployment import COMMANDS, Deployment
from tests.bench.figures import Figure, Goal, Spread
from tests.bench.queued import allocate_messages, publish
from tests.bench.worker import WARM_UP, Worker
from tests.waiting import eventually

EARLY, LATE = 20_000, 200_000
WHOLE_BENCH = 470.0
"""Seconds, this row being the last; a worker that needs more leaves it without an answer."""
CHUNK = 5_000
SAMPLES = 3


class Remembering:
    """One long drain in place of rounds: its spread is that of a few looks at each moment."""

    def __init__(self, bench: Bench, _wanted: Collection[str]) -> None:
        self._bench = bench
        self._early, self._late = bench.some(EARLY), bench.some(LATE)
        self._skus = stock.skus(1000)
        self._limits: list[float] = []
        self._found: list[float] = []
        self._curve: dict[int, float] = {}
        self._rate = 0.0

    def prepare(self) -> None:
        self._bench.show.step("memory: starting a worker")
        self._worker = Worker(self._bench, "memory", self._skus)
        self._deployment = self._worker.deployment

    def round(self, number: int) -> None:
        if number > 1:
            return
        self._bench.show.step(f"memory: {self._late:,} commands")
        self._begun = time.monotonic()
        self._longest = max(60.0, WHOLE_BENCH - self._bench.show.seconds)
        rate = max(self._worker.rate, self._bench.drain_rate)
        if rate * self._longest < self._late:
            raise TimeoutError(
                f"{self._late:,} commands take {self._late / rate:.0f} s at {rate:.0f}/s,"
                f" and {self._longest:.0f} s are left"
            )
        self._enqueue(WARM_UP, self._early)
        self._limits = self._looks_after(self._early)
        self._enqueue(self._early, self._late)
        self._found = self._looks_after(self._late)
        self._rate = self._late / (time.monotonic() - self._begun)
        committed.wait_for(self._deployment.database, "memory-", self._late - WARM_UP)
        self._bench.show.say(
            f"memory: {self._limits[-1]:.0f} MB after {self._early:,} commands,"
            f" {self._found[-1]:.0f} MB after {self._late:,}"
        )

    def figures(self) -> list[Figure]:
        self._bench.show.step("memory: proving the books")
        self._deployment.check()
        return [
            Figure(
                name=f"the worker's memory after {self._late:,} commands",
                unit="MB",
                measured=Spread.of(self._found),
                limit=Spread.of(self._limits),
                limit_name=f"after {self._early:,}",
                goals=(Goal.between("of the earlier", self._found, self._limits, at_most=1.1),),
                notes=(f"main process and pool (PSS); {self._rate:,.0f}/s all along",),
                details={"MB after commands": self._curve},
            )
        ]

    def _enqueue(self, begin: int, end: int) -> None:
        """From the number of commands before these up to `end`; the worker works meanwhile."""
        for first in range(begin, end, CHUNK):
            number = min(CHUNK, end - first)
            messages = allocate_messages(f"memory-{first}-", number, self._skus)
            publish(self._deployment.broker, messages.values())
            self._look(decided=first + number - self._deployment.depth(COMMANDS))

    def _looks_after(self, commands: int) -> list[float]:
        """The worker's megabytes a few times, once all these are taken from the queue."""

        def taken() -> bool:
            left = self._deployment.depth(COMMANDS)
            self._look(decided=commands - left)
            return not left

        rest = max(1.0, self._longest - (time.monotonic() - self._begun))
        eventually(taken, within=rest, what=f"{commands:,} commands to be taken")
        looks = []
        for _ in range(SAMPLES):
            time.sleep(0.3)  # memory moves at rest too: the looks must not be of one moment
            looks.append(megabytes(self._deployment))
        return looks

    def _look(self, decided: int) -> None:
        if decided - max(self._curve, default=0) >= CHUNK:
            self._curve[decided] = round(megabytes(self._deployment), 1)
            self._bench.show.done(decided / self._late)
        if time.monotonic() - self._begun > self._longest:
            raise TimeoutError(
                f"memory: {decided:,} commands in {self._longest:.0f} s, not {self._late:,};"
                f" megabytes by commands: {self._curve}"
            )


def megabytes(deployment: Deployment) -> float:
    """What the worker's processes have of their own, and their shares of what they share."""
    return sum(_proportional(pid) for pid in deployment.pids("worker")) / 1024


def _proportional(pid: int) -> int:
    """Kilobytes (PSS)."""
    told = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in told.splitlines() if line.startswith("Pss:"))
