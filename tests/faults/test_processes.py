"""Processes that are killed, in every moment of their work, and restarted under load."""

import json
import random
import signal
import time
from collections import Counter

import pytest
from kombu import Connection
from sqlalchemy import text

from tests.faults import scale
from tests.faults.conftest import Deploy
from tests.faults.gates import Gate
from tests.faults.proxy import Proxy
from tests.faults.run import Run
from tests.faults.system import Addresses, signal_all
from tests.integration.test_relay import Ear
from tests.waiting import eventually

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]

AN_EVENT = "NEW.kind = 'event'"
OF_A_PUBLISHING_WORKER = "OLD.relay_at IS NOT NULL"
OF_THE_RELAY = "OLD.relay_at IS NULL"


def unsent(run: Run) -> int:
    with run.system.engine.connect() as connection:
        query = "SELECT count(*) FROM outbox WHERE sent_at IS NULL"
        return connection.scalar(text(query)) or 0


def committed(run: Run) -> int:
    with run.system.engine.connect() as connection:
        return connection.scalar(text("SELECT sum(version) FROM products")) or 0


def test_pool_children_killed_before_their_commit(deploy: Deploy) -> None:
    """What they did is rolled back, and done by another."""
    run = deploy()
    gate = Gate(run.system.engine, "outbox", when=AN_EVENT)

    with run.load.running(scale.RATE):
        for _ in range(scale.times(6)):
            with gate.shut():
                gate.wait_for_somebody()
                signal_all(run.system.children("worker-1"), signal.SIGKILL)
                gate.cut_off()  # the message that waits has the COMMIT, too
            run.fault("kill -9 of pool children before COMMIT")

    run.prove()


def test_pool_children_killed_during_their_commit(deploy: Deploy) -> None:
    """The database commits for a process that is gone; its command comes again, and is known."""
    run = deploy()
    gate = Gate(run.system.engine, "outbox", deferred=True, when=AN_EVENT)

    with run.load.running(scale.RATE):
        for _ in range(scale.times(6)):
            with gate.shut():
                gate.wait_for_somebody()
                signal_all(run.system.children("worker-1"), signal.SIGKILL)
            run.fault("kill -9 of pool children during COMMIT")

    run.prove()


def test_pool_children_killed_after_their_commit(deploy: Deploy) -> None:
    """Before they hear that it is committed: the command comes again, and is known.

    They have published nothing, so the relay does.
    """
    run = deploy()
    gate = Gate(run.system.engine, "outbox", deferred=True, when=AN_EVENT)

    with run.load.running(scale.RATE):
        for _ in range(scale.times(6)):
            with gate.shut():
                gate.wait_for_somebody()
                before = committed(run)
                children = run.system.children("worker-1")
                signal_all(children, signal.SIGSTOP)
            eventually(lambda count=before: committed(run) > count, what="the COMMIT")  # type: ignore[misc]
            signal_all(children, signal.SIGKILL)
            run.fault("kill -9 of pool children after COMMIT")

    run.prove()


def test_pool_children_killed_after_their_publish(deploy: Deploy) -> None:
    """Before they mark what the broker has: the relay sends it again, and it is done once."""
    run = deploy()
    gate = Gate(run.system.engine, "outbox", event="UPDATE", when=OF_A_PUBLISHING_WORKER)

    with run.load.running(scale.RATE):
        for _ in range(scale.times(6)):
            with gate.shut():
                gate.wait_for_somebody()
                signal_all(run.system.children("worker-1"), signal.SIGKILL)
                gate.cut_off()
            run.fault("kill -9 of pool children after publish")

    run.prove()


def test_a_queue_keeps_the_order_of_each_sku_while_workers_and_the_relay_are_killed(
    deploy: Deploy, addresses: Addresses
) -> None:
    """Each event follows its predecessor, among repeats; here pool children die before publishing.

    Meanwhile the other worker decides about the same skus.
    """
    with Connection(addresses.broker) as connection:
        ear = Ear(connection)
        run = deploy(workers=2)
        gate = Gate(run.system.engine, "outbox", deferred=True, when=AN_EVENT)

        with run.load.running(scale.RATE):
            for number in range(scale.times(6)):
                name = run.system.worker_names[number % 2]
                with gate.shut():
                    gate.wait_for_somebody()
                    before = committed(run)
                    children = run.system.children(name)
                    signal_all(children, signal.SIGSTOP)
                eventually(lambda count=before: committed(run) > count, what="the COMMIT")  # type: ignore[misc]
                signal_all(children, signal.SIGKILL)
                run.fault("kill -9 of pool children after COMMIT")
                if number % 3 == 2:
                    run.system.kill("relay")
                    run.fault("kill -9 of the relay")
                    run.system.wait_until_ready("relay")

        run.prove()
        ear.take(0)

    followed: Counter[str] = Counter()
    for event in (json.loads(message.body) for message in ear.messages):
        followed[event["subject"]] += event["sequence"] == followed[event["subject"]] + 1
    assert followed == sequences(run)


def sequences(run: Run) -> dict[str, int]:
    """The number of each product's last event."""
    with run.system.engine.connect() as connection:
        rows = connection.execute(text("SELECT sku, sequence FROM products"))
        return {row.sku: row.sequence for row in rows}


def test_the_relay_down_for_longer_than_the_grace(deploy: Deploy) -> None:
    """Workers publish without it what comes by the queue; it has the rest when it is back."""
    run = deploy()

    with run.load.running(scale.RATE):
        for _ in range(scale.times(3)):
            with run.system.down("relay"):
                signal_all(run.system.children("worker-1"), signal.SIGKILL)
                time.sleep(4)  # the length of the outage is the fault
            run.fault("relay away for 4 s, and pool children killed")
            run.system.wait_until_ready("relay")

    run.prove()


def test_whole_workers_killed(deploy: Deploy, chance: random.Random) -> None:
    """At any moment; one of two at a time, and both at once."""
    run = deploy(workers=2, concurrency=1)
    run.load.send(scale.commands(300))

    with run.load.running(scale.RATE):
        for number in range(scale.times(6)):
            names = [chance.choice(run.system.worker_names)]
            if number % 3 == 2:
                names = run.system.worker_names
            for name in names:
                run.system.kill(name)
            run.fault("kill -9 of a whole worker", len(names))
            run.system.wait_until_ready(*names)

    run.prove()


def test_whole_workers_killed_while_they_share_partitions(
    deploy: Deploy, chance: random.Random
) -> None:
    """Others take their partitions over; in the middle the number of partitions changes."""
    run = deploy(workers=3, concurrency=1, partitions=4)
    run.load.send(scale.commands(300))

    with run.load.running(scale.RATE):
        for number in range(scale.times(6)):
            name = chance.choice(run.system.worker_names)
            run.system.kill(name)
            run.fault("kill -9 of a worker with partitions")
            if number == 2:
                run.system.divide(8)
            run.system.wait_until_ready(name)

    run.prove()


def test_the_relay_killed_after_its_select(deploy: Deploy, broker_proxy: Proxy) -> None:
    """Nothing of what it read has reached the broker: the next one reads it again."""
    run = deploy(environments={"relay": {"ALLOCATION_BROKER_URL": broker_proxy.url}})

    with run.load.running(scale.RATE):
        for _ in range(scale.times(4)):
            broker_proxy.to_server.hold()
            eventually(lambda: broker_proxy.to_server.held, within=20, what="a publish")
            run.system.kill("relay")
            broker_proxy.cut()
            broker_proxy.to_server.let_go()
            run.fault("kill -9 of the relay after select")
            run.system.wait_until_ready("relay")

    run.prove()


def test_the_relay_killed_after_its_publish(deploy: Deploy, broker_proxy: Proxy) -> None:
    """The broker has the messages, the relay no confirm: they are sent twice, and done once."""
    run = deploy(environments={"relay": {"ALLOCATION_BROKER_URL": broker_proxy.url}})

    with run.load.running(scale.RATE):
        for _ in range(scale.times(4)):
            broker_proxy.to_client.hold()
            eventually(lambda: broker_proxy.to_client.held, within=20, what="a confirm")
            run.system.kill("relay")
            broker_proxy.cut()
            broker_proxy.to_client.let_go()
            run.fault("kill -9 of the relay after publish")
            run.system.wait_until_ready("relay")

    run.prove()


def test_the_relay_killed_after_the_confirm(deploy: Deploy) -> None:
    """It never marks what the broker has: it is sent again, and done once."""
    run = deploy()
    gate = Gate(run.system.engine, "outbox", event="UPDATE", when=OF_THE_RELAY)

    with run.load.running(scale.RATE):
        for _ in range(scale.times(4)):
            with gate.shut():
                gate.wait_for_somebody()
                run.system.kill("relay")
                gate.cut_off()
            run.fault("kill -9 of the relay after confirm")
            run.system.wait_until_ready("relay")

    run.prove()


def test_the_relay_killed_after_the_mark(deploy: Deploy) -> None:
    """The database marks the rows for a process that is gone: nothing is sent twice."""
    run = deploy()
    gate = Gate(run.system.engine, "outbox", event="UPDATE", when=OF_THE_RELAY)

    with run.load.running(scale.RATE):
        for _ in range(scale.times(4)):
            with gate.shut():
                gate.wait_for_somebody()
                run.system.kill("relay")
            run.fault("kill -9 of the relay after mark")
            run.system.wait_until_ready("relay")

    run.prove()


def test_the_relay_killed_at_any_moment(deploy: Deploy, chance: random.Random) -> None:
    """Again and again while it works a backlog off."""
    run = deploy()
    with run.system.down("relay"):
        run.load.send(scale.commands(600))

    for _ in range(scale.times(6)):
        run.system.wait_until_ready("relay")
        time.sleep(chance.random() * 0.3)  # the moment is the seed's choice
        run.system.kill("relay")
        run.fault("kill -9 of the relay at any moment")

    run.prove()


@pytest.mark.parametrize(
    ("subscriber", "table"), [("warehouse", "picks"), ("notification", "mails")]
)
def test_a_subscriber_killed_in_the_middle_of_an_effect(
    deploy: Deploy, subscriber: str, table: str
) -> None:
    """Before, during and after its COMMIT: the event comes again, and takes effect once."""
    run = deploy()
    engine = getattr(run.system, subscriber)
    within = Gate(engine, table)
    at_commit = Gate(engine, table, deferred=True)

    with run.load.running(scale.RATE):
        for number in range(scale.times(6)):
            gate = at_commit if number % 2 else within
            with gate.shut():
                gate.wait_for_somebody(within=60)
                run.system.kill(subscriber)
                if number % 3 == 2:
                    gate.cut_off()
            run.fault(f"kill -9 of the {subscriber} in the middle of an effect")
            run.system.wait_until_ready(subscriber)

    run.prove()


def test_twenty_rolling_restarts(deploy: Deploy, chance: random.Random) -> None:
    """SIGTERM under load, one member after the other: what is held is finished or returned.

    Each ends by itself within the grace that compose.yaml gives it.
    """
    run = deploy(workers=2, concurrency=1)
    names = [*run.system.worker_names, "relay", "warehouse", "notification"]
    run.load.send(scale.commands(500))

    with run.load.running(scale.RATE):
        for number in range(scale.times(20)):
            run.system.roll(names[number % len(names)])
            run.fault("SIGTERM rolling restart")

    run.prove()
    assert [member.restarts for member in run.system.members.values()] == [0] * len(names)
