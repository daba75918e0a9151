"""A piece comes to the shelf, and one of 10, or of 100,000, promised lines moves to it."""

import statistics
from uuid import UUID, uuid4

from allocation.domain.commands import Allocate, AllocateWaiting, Receive
from tests.bench import past
from tests.bench.bench import Bench
from tests.bench.deciding import Decider, collected_before
from tests.bench.figures import Figure, Row
from tests.bench.servers import query, run

FEW, MANY = 10, 100_000
MOVES = 60
"""Lines that move in each round, in either database."""
WARM_UP = 20
ROW = Row(
    title=f"growth: one of {MANY:,} promised lines moves to the shelf",
    unit="ms",
    limit=f"one of {FEW} promised lines",
    at_most=1.5,
)
_PENDING = "SELECT id FROM commands WHERE status = 'pending'"


class Improving:
    """Each move is made up for by a new line, so that the number of promised lines stays."""

    rows = (ROW,)

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._lines = {FEW: FEW, MANY: bench.some(MANY)}
        self._databases: dict[int, str] = {}
        self._deciders: dict[int, Decider] = {}
        self._medians: dict[int, list[float]] = {FEW: [], MANY: []}

    def prepare(self) -> None:
        servers = self._bench.servers
        for column, lines in self._lines.items():
            self._bench.show.step(f"improve: making {lines:,} lines that were promised a ship")
            self._databases[column] = database = servers.database()
            servers.opened.callback(servers.drop, database)
            past.promised_a_ship(database, lines)
            self._deciders[column] = Decider(database)
            servers.opened.callback(self._deciders[column].close)
            for _ in range(WARM_UP):
                self._move(column)

    def round(self, number: int) -> None:
        self._bench.show.step(f"improve, round {number}: both columns in turns")
        times: dict[int, list[float]] = {FEW: [], MANY: []}
        with collected_before():
            for move in range(MOVES):
                for column, its in times.items():
                    its.append(self._move(column))
                self._bench.show.done((move + 1) / MOVES)
        for column, its in times.items():
            self._medians[column].append(statistics.median(its))
        shown = ", ".join(f"{rounds[-1]:.2f}" for rounds in self._medians.values())
        self._bench.show.say(f"improve, round {number}: {shown} ms")

    def figures(self) -> list[Figure]:
        self._bench.show.step("improve: proving the books")
        for database in self._databases.values():
            run("allocation", "check", env={"ALLOCATION_DATABASE_URL": database})
        note = "the receipt itself and the follow-up that moves the line"
        return [Figure(ROW, self._medians[MANY], self._medians[FEW], notes=(note,))]

    def _move(self, column: int) -> float:
        """Milliseconds until a line has the piece that was received."""
        decider = self._deciders[column]
        decider.decide(Allocate(f"order-{uuid4()}", past.SKU, 1))
        received, _ = decider.decide(Receive(past.SHELF, 1))
        follow_up = UUID(str(query(self._databases[column], _PENDING)[0][0]))
        moved, outcome = decider.decide(AllocateWaiting(past.SKU), follow_up)
        if outcome.facts.get("events") != 3:  # freed, promised, and the new day
            raise RuntimeError(f"improve: one line of {column} should move: {outcome}")
        return received + moved
