"""One worker as in production, whose queue is filled while it does not consume."""

from celery import Celery

from tests.bench import committed, stock
from tests.bench.bench import Bench
from tests.bench.deployment import COMMANDS, Deployment
from tests.bench.queued import allocate_messages, publish
from tests.bench.servers import query
from tests.waiting import eventually

WARM_UP = 400
"""Commands before the clock starts: pools filled, statements compiled."""
SECONDS = 4.0
"""How long a drain takes, about."""
LONGEST = 120.0  # seconds for one drain


class Worker:
    """It publishes nothing, and no relay runs beside it: events stay in the outbox."""

    def __init__(self, bench: Bench, name: str, skus: list[str]) -> None:
        self._bench = bench
        self.deployment = Deployment(bench.servers, name, ALLOCATION_PUBLISH_DIRECTLY="false")
        stock.put_on_the_shelf(self.deployment.database, skus)
        self.deployment.start("worker")
        self._control = Celery(broker=self.deployment.broker, set_as_current=False).control
        warm_up = allocate_messages("warm-up-", WARM_UP, skus)
        publish(self.deployment.broker, warm_up.values())
        self._wait_until_drained("warm-up-", WARM_UP)
        self._rate = committed.allocated(self.deployment.database, "warm-up-", WARM_UP).rate

    def drain(self, prefix: str, skus: list[str]) -> float:
        """Commands a second, all of them queued before the first was delivered."""
        number = self._bench.commands_for(SECONDS, self._rate)
        self._control.cancel_consumer(COMMANDS)
        eventually(lambda: not self.deployment.consumers(COMMANDS), what="the worker to pause")
        publish(self.deployment.broker, allocate_messages(prefix, number, skus).values())
        query(self.deployment.database, "CHECKPOINT")
        self._control.add_consumer(COMMANDS)
        self._wait_until_drained(prefix, number)
        self._rate = committed.allocated(self.deployment.database, prefix, number).rate
        return self._rate

    def _wait_until_drained(self, prefix: str, number: int) -> None:
        # The queue is asked, which costs the database nothing; only at the end the database.
        eventually(
            lambda: not self.deployment.depth(COMMANDS), within=LONGEST, what="an empty queue"
        )
        committed.wait_for(self.deployment.database, prefix, number)
