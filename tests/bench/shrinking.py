"""Shrinking a batch so that 10 lines move, when it holds 10 and when it holds 100,000."""

import statistics
from uuid import UUID

from allocation.domain.commands import AllocateWaiting, ChangeBatchQuantity
from tests.bench import past
from tests.bench.bench import Bench
from tests.bench.deciding import Decider, collected_before
from tests.bench.figures import Figure, Row
from tests.bench.servers import query, run

MOVED = 10
EACH = 25
"""Batches shrunk in each round, of either kind."""
WARM_UP = 5
HOLDS = 100_000
ROW = Row(
    title=f"growth: shrink a batch of {HOLDS:,} lines, and {MOVED} move",
    unit="ms",
    limit=f"a batch of {MOVED} lines, and all move",
    at_most=1.5,
)
_PENDING = "SELECT id FROM commands WHERE status = 'pending'"


class Shrinking:
    """One batch of many lines is shrunk again and again, and as often one of 10 lines."""

    rows = (ROW,)

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._holds = bench.some(HOLDS)
        self._left = self._holds
        self._small = 0
        self._few: list[float] = []
        self._many: list[float] = []

    def prepare(self) -> None:
        servers, show = self._bench.servers, self._bench.show
        show.step(f"shrink: making batches of {MOVED} and of {self._holds:,} lines")
        self._few_database, self._many_database = servers.database(), servers.database()
        past.full_batch(self._many_database, "BIG", self._holds)
        for number in range(WARM_UP + EACH * self._bench.rounds):
            past.full_batch(self._few_database, f"SMALL-{number}", MOVED)
        for database in (self._few_database, self._many_database):
            servers.opened.callback(servers.drop, database)
            past.finish(database)
        self._few_decider = Decider(self._few_database)
        self._many_decider = Decider(self._many_database)
        for decider in (self._few_decider, self._many_decider):
            servers.opened.callback(decider.close)
        for _ in range(WARM_UP):
            self._shrink_small()
            self._shrink_big()

    def round(self, number: int) -> None:
        self._bench.show.step(f"shrink, round {number}: both kinds in turns")
        few, many = [], []
        with collected_before():
            for turn in range(EACH):
                few.append(self._shrink_small())
                many.append(self._shrink_big())
                self._bench.show.done((turn + 1) / EACH)
        self._few.append(statistics.median(few))
        self._many.append(statistics.median(many))
        self._bench.show.say(
            f"shrink, round {number}: {self._few[-1]:.1f} ms of {MOVED} lines,"
            f" {self._many[-1]:.1f} ms of {self._holds:,}"
        )

    def figures(self) -> list[Figure]:
        self._bench.show.step("shrink: proving the books")
        for database in (self._few_database, self._many_database):
            run("allocation", "check", env={"ALLOCATION_DATABASE_URL": database})
        note = "the shrinking itself and the follow-up that finds the lines new stock"
        return [Figure(ROW, self._many, self._few, notes=(note,))]

    def _shrink_small(self) -> float:
        sku = f"SMALL-{self._small}"
        self._small += 1
        return self._shrink(self._few_decider, self._few_database, sku, 0)

    def _shrink_big(self) -> float:
        self._left -= MOVED
        return self._shrink(self._many_decider, self._many_database, "BIG", self._left)

    def _shrink(self, decider: Decider, database: str, sku: str, qty: int) -> float:
        """Milliseconds until the lines have new stock; the follow-up is taken as it was told."""
        shrunk, _ = decider.decide(ChangeBatchQuantity(f"full-{sku}", qty))
        follow_up: UUID | str = query(database, _PENDING)[0][0]
        served, outcome = decider.decide(AllocateWaiting(sku), UUID(str(follow_up)))
        if outcome.facts.get("events") != MOVED:
            raise RuntimeError(f"shrink: {MOVED} lines of {sku} should move: {outcome}")
        return shrunk + served
