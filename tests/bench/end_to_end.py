"""Row 3: from the enqueuing of the first command to the warehouse's commit of the last event."""

import time

from tests.bench import committed, stock
from tests.bench.bench import Bench
from tests.bench.deployment import Deployment
from tests.bench.queued import allocate_messages, publish
from tests.bench.servers import query
from tests.waiting import eventually

SECONDS = 5.0
"""How long a round takes, about."""
WARM_UP = 400
LONGEST = 120.0  # seconds for one round
_TAKEN = "SELECT count(*) FROM received"


class EndToEnd:
    """Worker, relay, warehouse and notification, all running beside the servers."""

    def __init__(self, bench: Bench, skus: list[str]) -> None:
        self.deployment = Deployment(bench.servers, "end-to-end")
        self._skus = skus
        stock.put_on_the_shelf(self.deployment.database, skus)
        self.deployment.start("worker", "relay", "warehouse", "notification")
        for database in (self.deployment.warehouse, self.deployment.notification):
            stock.expect_the_second_event(database, skus)
        self._bench = bench
        self._told = 0
        self._rate = self._measure("warm-up-", WARM_UP)

    def measure(self, prefix: str) -> float:
        """Commands a second, from the first publish on."""
        self._rate = self._measure(prefix, self._bench.commands_for(SECONDS, self._rate))
        return self._rate

    def check(self) -> None:
        self.deployment.check()

    def _measure(self, prefix: str, commands: int) -> float:
        messages = list(allocate_messages(prefix, commands, self._skus).values())
        query(self.deployment.database, "CHECKPOINT")
        begun = time.time()
        publish(self.deployment.broker, messages)
        self._told += commands
        self._wait_for(self.deployment.warehouse)
        self._wait_for(self.deployment.notification)
        committed.allocated(self.deployment.database, prefix, commands)
        picked = committed.picked(self.deployment.warehouse, prefix, commands)
        return picked.rate_since(begun)

    def _wait_for(self, database: str) -> None:
        eventually(
            lambda: query(database, _TAKEN) == [(self._told,)],
            within=LONGEST,
            what=f"{self._told} events at a subscriber",
        )
