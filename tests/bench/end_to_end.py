"""From the enqueuing of the first command to both subscribers' commits of the last event."""

import time

from tests.bench import committed, processor_time, stock
from tests.bench.bench import Bench
from tests.bench.deployment import COMMANDS, SUBSCRIBERS, Deployment
from tests.bench.queued import allocate_messages, publish
from tests.bench.servers import query
from tests.waiting import eventually

SECONDS = 5.0
"""How long a round takes, about."""
WARM_UP = 400
LONGEST = 120.0  # seconds for one round
_TAKEN = "SELECT count(*) FROM received"
_NEWEST = "SELECT extract(epoch FROM max(pg_xact_commit_timestamp(xmin)))::float FROM received"


class EndToEnd:
    """Worker, relay, warehouse and notification, all running beside the servers."""

    def __init__(self, bench: Bench, name: str, skus: list[str]) -> None:
        self.deployment = Deployment(bench.servers, name)
        self._skus = skus
        stock.put_on_the_shelf(self.deployment.database, skus)
        self.deployment.start("worker", "relay", "warehouse", "notification")
        for database in (self.deployment.warehouse, self.deployment.notification):
            stock.expect_the_second_event(database, skus)
        self._bench = bench
        self._told = 0
        self._rate, _ = self._measure("warm-up-", WARM_UP)

    def measure(self, prefix: str) -> tuple[float, float]:
        """Commands a second from the first publish on, and microseconds a command.

        The latter is the processor time of the service's processes and of both servers, until the
        outbox is empty, without that of the bench, which publishes the commands.
        """
        self._rate, cost = self._measure(prefix, self._bench.commands_for(SECONDS, self._rate))
        self._bench.end_to_end_rate = self._rate
        return self._rate, cost

    def _measure(self, prefix: str, commands: int) -> tuple[float, float]:
        messages = list(allocate_messages(prefix, commands, self._skus).values())
        query(self.deployment.database, "CHECKPOINT")
        before = processor_time.of_trees(self.deployment.roots)
        begun = time.time()
        publish(self.deployment.broker, messages)
        self._told += commands
        # The queues are asked, which costs little; only at the end the databases.
        for queue in (COMMANDS, *SUBSCRIBERS):
            eventually(
                lambda: not self.deployment.depth(queue),  # noqa: B023 - asked at once
                within=LONGEST,
                what=f"an empty {queue}",
            )
        both = self.deployment.warehouse, self.deployment.notification
        for database in both:
            self._wait_for(database)
        self.deployment.wait_until_sent()
        seconds = processor_time.of_trees(self.deployment.roots) - before
        committed.allocated(self.deployment.database, prefix, commands)
        committed.picked(self.deployment.warehouse, prefix, commands)
        ended = max(query(database, _NEWEST)[0][0] for database in both)
        return commands / (ended - begun), seconds / commands * 1e6

    def _wait_for(self, database: str) -> None:
        eventually(
            lambda: query(database, _TAKEN) == [(self._told,)],
            within=LONGEST,
            what=f"{self._told} events at a subscriber",
        )
