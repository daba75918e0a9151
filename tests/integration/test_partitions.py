"""Partitions on a real broker: where commands go, who has which, and in which order they count."""

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import pytest
from sqlalchemy import text

from allocation.adapters.rabbitmq import partitioning, topology
from allocation.adapters.sql import partitions
from allocation.client.amqp import AmqpClient
from tests.integration.conftest import BareClient, Service
from tests.nodes import WorkerProcess
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

SKUS = [f"SKU-{number}" for number in range(12)]


@dataclass
class Partitioned:
    """The service with partitioned commands, and its workers."""

    service: Service
    workers: list[WorkerProcess] = field(default_factory=list)

    def divide(self, number: int) -> str:
        """Run `allocation topology` for so many partitions; it may have to wait for workers."""
        self.service.environment["ALLOCATION_PARTITIONS"] = str(number)
        return self.service.run("topology")

    def start_workers(self, number: int) -> None:
        for _ in range(number):
            worker = WorkerProcess(
                self.service.start_process,
                app="allocation",
                name=f"worker-{len(self.workers) + 1}",
                options=("--concurrency=2",),
                env=self.service.environment,
            )
            self.workers.append(worker)
        for worker in self.workers[-number:]:
            worker.ready()

    def holders(self) -> dict[str, str | None]:
        """Which worker said that it has which queue."""
        with self.service.engine.connect() as connection:
            return {each.queue: each.worker for each in partitions.holders(connection)}

    def decided(self) -> int:
        with self.service.engine.connect() as connection:
            query = "SELECT count(*) FROM commands WHERE status <> 'pending'"
            return connection.scalar(text(query)) or 0

    def effects(self) -> dict[str, list[str]]:
        """For each sku the ids of the commands that had an effect, in the order of the effects."""
        query = "SELECT sku, causation_id FROM outbox WHERE kind = 'event' ORDER BY sku, sequence"
        found: dict[str, list[str]] = defaultdict(list)
        with self.service.engine.connect() as connection:
            for sku, cause in connection.execute(text(query)):
                found[sku].append(str(cause))
        return dict(found)


@pytest.fixture
def partitioned(service: Service) -> Iterator[Partitioned]:
    made = Partitioned(service)
    yield made
    for worker in made.workers:
        worker.teardown()


def allocate(client: AmqpClient, rounds: Sequence[int], sent: dict[str, list[str]]) -> None:
    """Send one command for each sku in each round; `sent` gets the ids in their order."""
    for number in rounds:
        for sku in SKUS:
            outcome = client.send("allocate", orderid=f"{sku}/{number}", sku=sku, qty=1)
            sent[sku].append(str(outcome.id))


def create_stock(client: AmqpClient, sent: dict[str, list[str]]) -> None:
    for sku in SKUS:
        outcome = client.send("create_batch", batchref=f"batch of {sku}", sku=sku, qty=100_000)
        sent[sku].append(str(outcome.id))


def test_one_partition_takes_what_has_no_key_and_others_what_has_one(
    partitioned: Partitioned, client: BareClient, broker_url: str
) -> None:
    partitioned.divide(8)
    queues = partitioning.queues(8)

    def depths() -> list[int]:
        return [partitioned.service.depth(name) or 0 for name in queues]

    for _ in range(20):
        client.send("allocation.allocate", orderid="o", sku="LAMP", qty=1)
    eventually(lambda: sum(depths()) == 20, what="the commands in a queue")
    without = depths()
    assert sorted(without) == [0] * 7 + [20]

    with client.celery() as celery:
        for number in range(100):
            celery.send_task(
                "allocation.allocate", exchange=topology.COMMANDS, routing_key=f"SKU-{number}"
            )
    eventually(lambda: sum(depths()) == 120, what="the commands in the queues")
    assert min(depths()) > 0


def test_workers_share_partitions_and_take_over_from_one_that_is_killed(
    partitioned: Partitioned, broker_url: str
) -> None:
    partitioned.divide(8)
    partitioned.start_workers(1)
    sent: dict[str, list[str]] = defaultdict(list)
    rounds = iter(range(1_000_000))

    def shared_by(number: int) -> bool:
        """Whether so many workers have all partitions, after a few commands more."""
        allocate(sender, [next(rounds)], sent)
        counted = Counter(partitioned.holders().values())
        shares = [-(-8 // number)] * number
        return None not in counted and sorted(counted.values()) == shares

    with AmqpClient(broker_url) as sender:
        create_stock(sender, sent)
        eventually(lambda: shared_by(1), within=30, what="one worker to have all")
        partitioned.start_workers(1)
        eventually(lambda: shared_by(2), within=60, what="two workers to have half of them each")
        partitioned.workers[0].kill()
        eventually(lambda: shared_by(1), within=60, what="the other one to have all")

    count = sum(map(len, sent.values()))
    eventually(lambda: partitioned.decided() == count, within=60, what="all outcomes")
    assert partitioned.effects() == sent


def test_the_order_of_each_sku_holds_across_workers_kills_and_changes_of_their_number(
    partitioned: Partitioned, broker_url: str
) -> None:
    """Commands take effect in the order in which the broker took them."""
    partitioned.divide(4)
    partitioned.start_workers(3)
    chance = random.Random(23)
    sent: dict[str, list[str]] = defaultdict(list)
    changing = threading.Thread(target=lambda: partitioned.divide(8))

    with AmqpClient(broker_url) as sender:
        create_stock(sender, sent)
        for number in range(12):
            allocate(sender, range(100 * number, 100 * number + 10), sent)
            victim = chance.choice(partitioned.workers)
            victim.kill()
            allocate(sender, range(100 * number + 10, 100 * number + 30), sent)
            victim.process.start()
            if number == 5:
                changing.start()
        changing.join()
        allocate(sender, range(5000, 5010), sent)

    count = sum(map(len, sent.values()))
    eventually(lambda: partitioned.decided() == count, within=120, what="all outcomes")
    assert partitioned.effects() == sent
    assert set(partitioned.holders()) == set(partitioning.queues(8))
