"""Rows of partitions: two workers that share eight, beside one worker with the one queue."""

from collections import Counter
from uuid import uuid4

import amqp

from allocation.messaging.celery_message import slot
from tests.bench import committed, stock
from tests.bench.bench import Bench
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, Row
from tests.bench.queued import allocate_message, publish
from tests.bench.servers import query, run
from tests.waiting import eventually

PARTITIONS = 8
SPREAD = Row(
    title=f"two workers with {PARTITIONS} partitions, 1,000 skus",
    unit="/s",
    limit="one worker with one queue",
    at_least=1.0,
)
HOT = Row(
    title=f"two workers with {PARTITIONS} partitions, one hot sku",
    unit="/s",
    limit="one worker with one queue",
    at_least=0.95,
)
SECONDS = 4.0
"""How long a round takes, about."""
LONGEST = 120.0  # seconds for one round
_HOLDERS = "SELECT worker FROM partitions"
_EARLY = """
    SELECT count(*) FROM (
        SELECT number, lag(number) OVER (PARTITION BY sku ORDER BY sequence) AS before FROM (
            SELECT sku, sequence,
                   reverse(split_part(reverse(body->'data'->>'orderid'), '-', 1))::int AS number
            FROM outbox WHERE kind = 'event' AND body->'data'->>'orderid' LIKE %(prefix)s
        ) AS events
    ) AS steps WHERE number < before"""


class Partitioned:
    """Commands are published while workers decide; both deployments get the same ones."""

    rows = (SPREAD, HOT)

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._skus = stock.skus(1000)
        self._rates: dict[Row, tuple[list[float], list[float]]] = {
            row: ([], []) for row in self.rows
        }
        self._rate = 2000.0

    def prepare(self) -> None:
        self._bench.show.step("partitions: starting the workers")
        skus = [*self._skus, stock.HOT]
        self._one = Deployment(self._bench.servers, "one-worker")
        self._two = Deployment(self._bench.servers, "two-workers")
        for each in (self._one, self._two):
            stock.put_on_the_shelf(each.database, skus)
        settings = self._two.environment | {"ALLOCATION_PARTITIONS": str(PARTITIONS)}
        run("allocation", "topology", env=settings)
        self._one.start("worker")
        self._two.start("worker", "worker-2")
        self._drain(self._one, "warm-up", skus, 400)

        def shared() -> bool:
            self._drain(self._two, uuid4().hex, self._skus, 400)
            holders = Counter(worker for (worker,) in query(self._two.database, _HOLDERS))
            return None not in holders and set(holders.values()) == {PARTITIONS // 2}

        eventually(shared, within=LONGEST, what="two workers with half of the partitions each")

    def round(self, number: int) -> None:
        for row, name, skus in ((SPREAD, "spread", self._skus), (HOT, "hot", [stock.HOT])):
            commands = self._bench.commands_for(SECONDS, self._rate)
            for deployment, rates in zip((self._one, self._two), self._rates[row], strict=True):
                self._bench.show.step(f"partitions, {name}, round {number}")
                rates.append(self._drain(deployment, f"{name}{number}", skus, commands))
            one, two = (rates[-1] for rates in self._rates[row])
            self._rate = (one + two) / 2
            self._bench.show.say(
                f"partitions, {name}, round {number}: {two:,.0f}/s beside {one:,.0f}/s"
            )

    def figures(self) -> list[Figure]:
        self._bench.show.step("partitions: proving the books")
        for each in (self._one, self._two):
            each.check()
        return [Figure(row, two, one) for row, (one, two) in self._rates.items()]

    def _drain(self, deployment: Deployment, name: str, skus: list[str], commands: int) -> float:
        """Commands a second; each sku's have to be decided in the order in which they are sent."""
        prefix = f"{name}-"
        messages = [
            _with_slot(allocate_message(uuid4(), f"{prefix}{position}", sku), sku)
            for position in range(commands)
            for sku in [skus[position % len(skus)]]
        ]
        query(deployment.database, "CHECKPOINT")
        publish(deployment.broker, messages)
        committed.wait_for(deployment.database, prefix, commands, within=LONGEST)
        [(early,)] = query(deployment.database, _EARLY, {"prefix": f"{prefix}%"})
        if early:
            raise RuntimeError(f"{early} commands were decided before an earlier one of their sku")
        return committed.allocated(deployment.database, prefix, commands).rate


def _with_slot(message: amqp.Message, sku: str) -> amqp.Message:
    message.properties["application_headers"]["CC"] = [slot(sku)]
    return message
