"""Partitions on a real broker: where commands go, who has which, and in which order they count."""

import random
import threading
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

import kombu
import pytest
from kombu import Connection
from sqlalchemy import text

from allocation.adapters.rabbitmq import partitioning, topology
from allocation.adapters.sql import partitions
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.client.amqp import AmqpClient
from allocation.domain.commands import (
    CancelOrder,
    ChangeBatchQuantity,
    Command,
    CreateBatch,
    Receive,
)
from allocation.entrypoints.cli.partition_change import change
from allocation.messaging.celery_message import slot
from allocation.service_layer.execution import accept
from tests.integration.conftest import BareClient, Service
from tests.nodes import WorkerProcess
from tests.servers.postgres import PrivatePostgres
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.storage.conftest import message
from tests.waiting import eventually

pytestmark = [pytest.mark.long, pytest.mark.timeout(300)]

SKUS = [f"SKU-{number}" for number in range(12)]


@dataclass
class Partitioned:
    """The service with partitioned commands, and its workers."""

    service: Service
    number: int = 1
    workers: list[WorkerProcess] = field(default_factory=list)

    def divide(self, number: int) -> str:
        """Run `allocation topology` for so many partitions; it may have to wait for workers."""
        self.number = number
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

    def waiting(self) -> dict[str, int]:
        """How many messages are in each queue of a partition that has any."""
        depths = {name: self.service.depth(name) or 0 for name in partitioning.queues(self.number)}
        return {name: depth for name, depth in depths.items() if depth}

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
            victim.kill("SIGTERM" if number % 4 == 3 else "SIGKILL")
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


def test_a_retry_stays_in_its_partition(
    partitioned: Partitioned, broker_url: str, private_postgres: PrivatePostgres
) -> None:
    """Whether it came by its slot or by a key of its own."""
    partitioned.divide(8)
    before = send_two(partitioned, broker_url)
    with Connection(broker_url) as connection:
        for queue in before:
            connection.default_channel.queue_purge(queue)
    partitioned.start_workers(1)
    [worker] = partitioned.workers
    private_postgres.kill()

    send_two(partitioned, broker_url, wait=False)
    worker.process.wait_for_log("(?s)(will be retried.*){2}")
    worker.process.stop()

    # A worker that is stopped before it has read the result returns the first message, too.
    retried: dict[str, int] = {}
    with Connection(broker_url) as connection:

        def have_come() -> bool:
            for queue in partitioning.queues(8):
                found = taken(connection, queue)
                retried.update({queue: 1} if any(each.headers["retries"] for each in found) else {})
            return retried == before

        eventually(have_come, within=60, what="the retries")


def test_a_dead_letter_is_replayed_to_its_partition(
    partitioned: Partitioned, broker_url: str
) -> None:
    """Whether a worker dead-letters it with a reason, or the broker by itself."""
    partitioned.divide(8)
    before = send_two(partitioned, broker_url)
    partitioned.service.refuse_rows("products")
    partitioned.start_workers(1)
    eventually(lambda: partitioned.service.depth(topology.DEAD) == 2, what="two dead letters")
    partitioned.workers[0].kill()

    partitioned.service.run("dead", "replay", "--all")
    replayed = partitioned.waiting()
    with Connection(broker_url) as connection:
        for queue in before:
            taken(connection, queue, accepted=False)
    eventually(lambda: partitioned.service.depth(topology.DEAD) == 2, what="two dead letters")
    partitioned.service.run("dead", "replay", "--all")

    assert replayed == before
    assert partitioned.waiting() == before


def test_commands_of_a_batch_go_to_the_partition_of_its_sku(partitioned: Partitioned) -> None:
    """Also while the batch is about to be created; one that nobody knows goes by its own name."""
    partitioned.divide(8)
    unit_of_work = SqlUnitOfWork(partitioned.service.engine)
    commands: list[Command] = [
        CreateBatch("b1", "LAMP", 5),
        Receive("b1", 5),
        ChangeBatchQuantity("b1", 7),
        Receive("unknown", 1),
        CancelOrder("order-1"),
    ]
    for number, command in enumerate(commands):
        accept(message(command, number), unit_of_work)
    relay = partitioned.service.relay()
    relay.wait_for_log("ready: relaying")

    names = partitioning.queues(8)
    expected = Counter(
        names[slot_of(key) % 8] for key in ("LAMP", "LAMP", "LAMP", "unknown", "order-1")
    )
    eventually(lambda: partitioned.waiting() == expected, what="each in its partition")


def test_a_change_that_was_interrupted_goes_on_and_holds_what_is_new_back(
    partitioned: Partitioned, broker_url: str
) -> None:
    """The old queue is not empty by then. Nothing is lost on the way back to one queue."""
    service = partitioned.service
    with AmqpClient(broker_url) as sender:
        partitioned.number = 4
        first = sender.send("create_batch", batchref="b1", sku="LAMP", qty=5).id
        with Connection(broker_url) as worker, Connection(broker_url) as connection:
            worker.channel().basic_consume(topology.COMMANDS, callback=print)
            eventually(lambda: service.depth(topology.COMMANDS) == 0, what="the command's delivery")
            with pytest.raises(KeyboardInterrupt):
                change(connection, service.engine, 4, interrupt)
        second = sender.send("allocate", orderid="o1", sku="LAMP", qty=5).id
    eventually(lambda: service.depth(topology.COMMANDS) == 1, what="the command's return")
    assert partitioned.waiting() == {partitioning.queues(4)[slot_of("LAMP") % 4]: 1}

    partitioned.start_workers(1)
    partitioned.divide(1)

    assert [service.outcome(str(each))[0] for each in (first, second)] == ["succeeded"] * 2
    with service.engine.connect() as connection:
        [generation] = partitions.generations(connection)
    assert (generation.partitions, generation.queues) == (1, (topology.COMMANDS,))
    assert service.depth(partitioning.queues(4)[0]) is None


def test_while_no_worker_runs_a_change_with_a_backlog_is_left_for_later(
    partitioned: Partitioned, client: BareClient
) -> None:
    """As in a deployment that starts: workers are started after `allocation topology`."""
    service = partitioned.service
    created = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=5)

    said = partitioned.divide(4)

    assert "1 commands wait, and no worker runs: nothing was changed" in said
    partitioned.start_workers(1)
    assert service.outcome(created)[0] == "succeeded"
    assert ", ".join(partitioning.queues(4)) in partitioned.divide(4)


def test_of_two_changes_at_once_one_is_refused(partitioned: Partitioned) -> None:
    service = partitioned.service
    with partitions.only_change(service.engine) as is_only:
        assert is_only
        service.environment["ALLOCATION_PARTITIONS"] = "2"
        refused = service.run("topology", status=1)

    assert "another `allocation topology` changes the partitions" in refused
    partitioned.divide(2)
    del service.environment["ALLOCATION_PARTITIONS"]
    assert ", ".join(partitioning.queues(2)) in service.run("topology")


def test_a_broker_without_the_plugin_is_left_as_it_was(
    service: Service,
) -> None:
    node = PrivateRabbitMQ(plugins=("rabbitmq_management",))
    try:
        node.start()
        environment = service.environment | {"ALLOCATION_BROKER_URL": node.url}
        service.environment.update(environment, ALLOCATION_PARTITIONS="2")
        said = service.run("topology", status=1)
        with Connection(node.url) as connection:
            partitioned = partitioning.is_partitioned(connection)
    finally:
        node.remove()

    assert "rabbitmq-plugins enable rabbitmq_consistent_hash_exchange" in said
    assert not partitioned
    with service.engine.connect() as connection:
        assert partitions.generations(connection) == []


def send_two(partitioned: Partitioned, broker_url: str, *, wait: bool = True) -> dict[str, int]:
    """Send a command with a slot and one with a key of its own; the queues that they are in."""
    with AmqpClient(broker_url) as sender:
        sender.send("create_batch", batchref="b1", sku="LAMP", qty=5)
    with BareClient(broker_url).celery() as celery:
        celery.send_task(
            "allocation.create_batch",
            kwargs={"batchref": "b2", "sku": "CHAIR", "qty": 5},
            exchange=topology.COMMANDS,
            routing_key="CHAIR",
        )
    if not wait:
        return {}
    return eventually(
        lambda: found if sum((found := partitioned.waiting()).values()) == 2 else None,
        what="two commands in their queues",
    )


def taken(connection: Connection, queue: str, *, accepted: bool = True) -> list[kombu.Message]:
    """The messages of a partition, which leave it: they are acknowledged, or else rejected."""
    found: list[kombu.Message] = []

    def receive(message: kombu.Message) -> None:
        found.append(message)
        message.ack() if accepted else message.reject()

    with (
        connection.channel() as channel,
        kombu.Consumer(
            channel, [partitioning.queue(queue)], on_message=receive, auto_declare=False
        ),
        suppress(TimeoutError),
    ):
        while True:
            connection.drain_events(timeout=0.3)
    return found


def interrupt(_: str) -> None:
    raise KeyboardInterrupt


def slot_of(key: str) -> int:
    return int(slot(key).removeprefix("slot-"))
