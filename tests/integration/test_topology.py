"""`allocation topology` declares all that the processes need; they declare nothing themselves."""

import subprocess
import sys
from pathlib import Path

import pytest
from kombu import Connection, Queue

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import CreateBatch
from allocation.service_layer.execution import execute
from tests.integration.conftest import Service
from tests.integration.test_relay import unsent
from tests.servers.processes import clean_environment
from tests.servers.vhosts import Vhosts
from tests.storage.conftest import message
from tests.waiting import eventually

pytestmark = pytest.mark.long


def declare(broker_url: str, state_dir: Path) -> "subprocess.CompletedProcess[str]":
    """Run `allocation topology` to its end."""
    return subprocess.run(
        [sys.executable, "-m", "allocation", "topology"],
        env=clean_environment()
        | {"ALLOCATION_BROKER_URL": broker_url, "ALLOCATION_STATE_DIR": str(state_dir)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def arguments(rabbitmq: Vhosts, broker_url: str) -> dict[str, dict[str, object]]:
    """Each queue of the virtual host with its arguments."""
    found = rabbitmq.api("GET", f"/api/queues/{Connection(broker_url).virtual_host}")
    assert isinstance(found, list)
    return {queue["name"]: queue["arguments"] for queue in found}


def test_one_command_declares_all_and_may_be_repeated(
    rabbitmq: Vhosts, broker_url: str, state_dir: Path
) -> None:
    """The queues of this system, and those in which the broker holds delayed retries."""
    first, second = (declare(broker_url, state_dir) for _ in range(2))

    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert set(arguments(rabbitmq, broker_url)) == {
        *topology.names(),
        *(f"celery_delayed_{level}" for level in range(28)),
    }


def test_queues_that_are_worked_on_are_limited_and_dead_letters_are_not(
    rabbitmq: Vhosts, broker_url: str
) -> None:
    """A full queue refuses; a dead letter is neither refused nor dropped by the broker."""
    with Connection(broker_url) as connection:
        topology.declare(connection)

    found = arguments(rabbitmq, broker_url)

    for name in (topology.COMMANDS, topology.INBOUND, *topology.SUBSCRIBERS):
        assert found[name]["x-overflow"] == "reject-publish"
        assert found[name]["x-max-length"] == 2_000_000
    for name in topology.dead_queues():
        assert found[name] == {"x-queue-type": "quorum", "x-delivery-limit": 2_000_000_000}


def test_a_queue_with_other_arguments_is_named_and_left_alone(
    rabbitmq: Vhosts, broker_url: str, state_dir: Path
) -> None:
    """Nobody deletes it unasked: it may hold messages."""
    with Connection(broker_url) as connection:
        Queue("warehouse.events", durable=True)(connection.channel()).declare()
    before = arguments(rabbitmq, broker_url)["warehouse.events"]

    ended = declare(broker_url, state_dir)

    assert ended.returncode == 1
    assert "warehouse.events" in ended.stderr
    assert "rabbitmqctl delete_queue" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert arguments(rabbitmq, broker_url)["warehouse.events"] == before


def test_a_dead_letter_may_be_looked_at_any_number_of_times(broker_url: str) -> None:
    """RabbitMQ 4 would drop it at the twentieth return."""
    with Connection(broker_url, transport_options={"confirm_publish": True}) as connection:
        topology.declare(connection)
        connection.Producer().publish("{}", exchange="", routing_key=topology.DEAD)
        dead = Queue(topology.DEAD)(connection.channel())

        for _ in range(50):
            letter = eventually(dead.get, what="the dead letter")
            letter.requeue()

        assert eventually(dead.get, what="the dead letter").payload == "{}"


def test_a_missing_queue_of_one_subscriber_holds_every_event_until_it_is_declared(
    service: Service, broker_url: str, state_dir: Path
) -> None:
    """The fanout is content with the other queue; the relay is not."""
    running = service.relay()
    running.wait_for_log("ready: relaying")
    with Connection(broker_url) as connection, connection.channel() as channel:
        channel.queue_delete("warehouse.events")

    execute(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))
    running.wait_for_log("run `allocation topology`")
    assert unsent(service) == 1
    declare(broker_url, state_dir)

    eventually(lambda: unsent(service) == 0, what="the rows sent")
    eventually(lambda: service.depth("warehouse.events") == 1, what="the event in the queue")


def test_a_queue_that_somebody_unbound_is_bound_again(service: Service, broker_url: str) -> None:
    """Its subscriber misses what was told meanwhile, and nothing after."""
    running = service.relay()
    running.wait_for_log("ready: relaying")
    with Connection(broker_url) as connection, connection.channel() as channel:
        channel.queue_unbind("warehouse.events", "allocation.events")

        def heard() -> bool:
            number = next(numbers)
            create = CreateBatch(f"b{number}", "LAMP", 10)
            execute(message(create, number), SqlUnitOfWork(service.engine))
            eventually(lambda: unsent(service) == 0, what="the rows sent")
            return bool(service.depth("warehouse.events"))

        numbers = iter(range(1, 1000))
        eventually(heard, within=15, what="an event in the queue that was unbound")


def test_a_full_queue_refuses_and_what_it_refused_is_sent_once_there_is_room(
    rabbitmq: Vhosts, service: Service, broker_url: str
) -> None:
    """A limit of two by a policy: the lower of the two limits counts."""
    vhost = Connection(broker_url).virtual_host
    rabbitmq.api(
        "PUT",
        f"/api/policies/{vhost}/small",
        {"pattern": "^warehouse.events$", "definition": {"max-length": 2}},
    )
    running = service.relay()
    running.wait_for_log("ready: relaying")

    decided = 0

    def refused() -> bool:
        # One by one: a quorum queue takes a burst that comes before it knows how full it is.
        nonlocal decided
        decided += 1
        create = CreateBatch(f"b{decided}", f"LAMP-{decided}", 10)
        execute(message(create, decided), SqlUnitOfWork(service.engine))
        return "the broker accepted only some messages" in running.logs()

    eventually(refused, what="a refusal")
    assert unsent(service) > 0
    rabbitmq.api("DELETE", f"/api/policies/{vhost}/small")

    eventually(lambda: unsent(service) == 0, what="the rows sent")
    assert (service.depth("warehouse.events") or 0) >= decided
