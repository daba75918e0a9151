"""Each process does its whole work as a RabbitMQ user of its own, and may do nothing else."""

import json
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit

import pytest
from amqp.exceptions import AccessRefused
from kombu import Connection, Exchange, Queue
from sqlalchemy import select

from allocation.adapters.rabbitmq import permissions, topology
from allocation.adapters.rabbitmq.dead_letter_queues import Selection, deliver_again, selected
from allocation.adapters.sql.tables import allocations
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract import registry
from allocation.domain.commands import Allocate, CreateBatch
from allocation.service_layer.execution import accept
from tests.integration.conftest import BareClient, Service
from tests.integration.test_inbound import command_id as inbound_command
from tests.integration.test_inbound import tell
from tests.integration.test_relay import unsent
from tests.servers.ports import free_ports
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import Process, clean_environment
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.storage.conftest import message
from tests.waiting import eventually

pytestmark = pytest.mark.long


def dispatched(service: Service) -> list[str]:
    """The orders whose goods are off the books."""
    with service.engine.connect() as connection:
        query = select(allocations.c.orderid).where(allocations.c.dispatched)
        return list(connection.scalars(query))


PROGRAMS = {
    "worker": (["-m", "celery", "-A", "allocation", "worker", "-c1"], " ready"),
    "relay": (["-m", "allocation", "relay"], "ready: relaying"),
    "inbound": (["-m", "allocation", "inbound"], "ready: consuming"),
    "warehouse": (["-m", "workers.warehouse"], "ready: consuming"),
    "notification": (["-m", "workers.notification"], "ready: consuming"),
}


@dataclass
class Users:
    """One virtual host, and the URL of each role's user there."""

    admin_url: str
    passwords: dict[str, str]
    management: str
    state_dir: Path

    def url(self, role: str) -> str:
        admin = urlsplit(self.admin_url)
        return f"amqp://{role}:{self.passwords[role]}@{admin.hostname}:{admin.port}{admin.path}"

    def make(self) -> "subprocess.CompletedProcess[str]":
        """Run `allocation topology` as the administrator."""
        users = " ".join(f"{role}:{password}" for role, password in self.passwords.items())
        environment = {
            "ALLOCATION_BROKER_URL": self.admin_url,
            "ALLOCATION_STATE_DIR": str(self.state_dir),
            "ALLOCATION_BROKER_USERS": users,
            "ALLOCATION_BROKER_MANAGEMENT_URL": self.management,
        }
        return run(environment, "-m", "allocation", "topology")


def run(environment: dict[str, str], *command: str) -> "subprocess.CompletedProcess[str]":
    """Run a Python program to its end."""
    return subprocess.run(
        [sys.executable, *command],
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.fixture
def users(private_rabbitmq: PrivateRabbitMQ, broker_url: str, state_dir: Path) -> Iterator[Users]:
    """With the topology and every role's user made; users belong to the whole broker."""
    made = Users(
        broker_url,
        {role: token_hex(8) for role in permissions.ROLES},
        private_rabbitmq.management,
        state_dir,
    )
    ended = made.make()
    assert ended.returncode == 0, ended.stderr
    yield made
    for role in permissions.ROLES:
        private_rabbitmq.api("DELETE", f"/api/users/{role}")


def test_each_process_does_its_whole_work_with_the_rights_of_its_role(
    users: Users,
    service: Service,
    client: BareClient,
    processes: Callable[..., Process],
    private_rabbitmq: PrivateRabbitMQ,
    private_postgres: PrivatePostgres,
    empty_database_url: str,
    state_dir: Path,
) -> None:
    """Retries, dead letters, remote control and health among it; the broker refused nothing."""
    before = len(private_rabbitmq.logs())
    environment = service.environment | {
        "WAREHOUSE_DATABASE_URL": empty_database_url,
        "NOTIFICATION_DATABASE_URL": f"sqlite:///{state_dir}/notification.db",
        "ALLOCATION_LOG_FORMAT": "json",
    }
    started = {
        role: processes(
            [sys.executable, *command],
            name=role,
            env=environment | {"ALLOCATION_BROKER_URL": users.url(role)},
        )
        for role, (command, _) in PROGRAMS.items()
    }
    for role, (_, ready) in PROGRAMS.items():
        started[role].wait_for_log(ready, within=40)

    # Accepted, relayed, decided, told, picked.
    accept(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))
    allocate = message(Allocate("o1", "LAMP", 4), 2)
    accept(allocate, SqlUnitOfWork(service.engine))
    assert service.outcome(str(allocate.id))[1]["batchref"] == "b1"
    told = registry.example("batch.quantity_changed.v1") | {"data": {"batchref": "b1", "qty": 9}}
    tell(users.admin_url, [told])
    assert service.outcome(inbound_command(told))[0] == "succeeded"
    eventually(lambda: unsent(service) == 0, what="everything told")
    picks = ["-m", "workers.warehouse", "picks", "--json"]
    eventually(lambda: "o1" in run(environment, *picks).stdout, what="the pick")

    # Goods that leave: the warehouse tells it, and it comes back as a command.
    assert run(environment, "-m", "workers.warehouse", "dispatch", "o1").returncode == 0
    eventually(lambda: dispatched(service) == ["o1"], what="the goods off the books")

    # A retry that the broker delays.
    private_postgres.kill()
    command_id = client.send("allocation.allocate", orderid="o2", sku="LAMP", qty=1)
    started["worker"].wait_for_log(f"will be retried.*{command_id}")
    private_postgres.start()
    service.engine.dispose()  # its connections were to the server that was killed
    assert service.outcome(command_id, within=40)[0] == "succeeded"

    # Dead letters of each queue, with their reasons.
    client.send_raw(b"nonsense")
    with Connection(users.admin_url) as connection:
        for exchange in ("allocation.events", "allocation.inbound"):
            connection.Producer().publish("nonsense", exchange=exchange, routing_key="")
        for name in topology.dead_queues():
            dead = Queue(name)(connection.channel())
            letter = eventually(dead.get, within=30, what=f"a letter in {name}")
            assert letter.headers["x-reason"] == "unreadable"

    # Remote control, and health as the worker's own container asks for it.
    as_flower = environment | {"ALLOCATION_BROKER_URL": users.url("flower")}
    inspected = run(as_flower, "-m", "celery", "-A", "allocation", "inspect", "ping")
    assert "pong" in inspected.stdout, inspected.stdout + inspected.stderr
    as_worker = environment | {"ALLOCATION_BROKER_URL": users.url("worker")}
    assert run(as_worker, "-m", "allocation.health", "worker").returncode == 0
    as_relay = environment | {"ALLOCATION_BROKER_URL": users.url("relay")}
    seen = run(as_relay, "-m", "allocation", "status")
    assert "missing" not in seen.stdout
    assert seen.returncode == 0, seen.stderr

    refused = [
        line for line in private_rabbitmq.logs()[before:].splitlines() if "refused for user" in line
    ]
    assert refused == []


def test_flower_watches_with_its_own_rights(
    users: Users,
    service: Service,
    client: BareClient,
    processes: Callable[..., Process],
    private_rabbitmq: PrivateRabbitMQ,
) -> None:
    """It hears the worker's events, and asks the worker what it is."""
    before = len(private_rabbitmq.logs())
    watched = processes(
        [sys.executable, *PROGRAMS["worker"][0]],
        name="worker",
        env=service.environment | {"ALLOCATION_BROKER_URL": users.url("worker")},
    )
    watched.wait_for_log(" ready", within=40)
    [port] = free_ports(1)
    command = ["-m", "celery", "-A", "allocation", "flower", f"--port={port}"]
    processes(
        [sys.executable, *command, "--address=127.0.0.1"],
        name="flower",
        env=service.environment
        | {
            "ALLOCATION_BROKER_URL": users.url("flower"),
            "FLOWER_UNAUTHENTICATED_API": "true",
        },
    )

    def ask(path: str) -> Any:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=20) as answer:
                return json.load(answer)
        except OSError:
            return None  # not up yet

    [node] = eventually(lambda: ask("/api/workers?refresh=1"), within=40, what="the worker")
    assert node.startswith("celery@")
    client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)

    [task] = eventually(lambda: ask("/api/tasks"), within=20, what="the task").values()
    assert task["name"] == "allocation.create_batch"
    assert "refused for user" not in private_rabbitmq.logs()[before:]


Act = Callable[[Connection], object]


def get(queue: str) -> Act:
    return lambda connection: Queue(queue)(connection.channel()).get()


def purge(queue: str) -> Act:
    return lambda connection: Queue(queue)(connection.channel()).purge()


def delete(queue: str) -> Act:
    return lambda connection: Queue(queue)(connection.channel()).delete()


def declare(queue: str) -> Act:
    return lambda connection: Queue(queue, durable=True)(connection.channel()).declare()


def bind(queue: str, exchange: str) -> Act:
    return lambda connection: Queue(queue)(connection.channel()).bind_to(exchange)


def publish(exchange: str, routing_key: str = "") -> Act:
    def act(connection: Connection) -> None:
        connection.Producer().publish("{}", exchange=exchange, routing_key=routing_key)

    return act


def make_exchange(name: str) -> Act:
    return lambda connection: Exchange(name, type="fanout")(connection.channel()).declare()


FORBIDDEN: list[tuple[str, str, Act]] = [
    (role, what, act)
    for role in permissions.ROLES
    if role not in ("operator", "api")
    for what, act in {
        "declare a queue": declare("mine"),
        "declare an exchange": make_exchange("mine"),
        "delete the queue of commands": delete("allocation.commands"),
        "publish to any queue": publish("", "allocation.commands"),
        "read dead letters": get("allocation.dead"),
        "read a subscriber's dead letters": get("warehouse.events.dead"),
    }.items()
] + [
    ("api", "declare a queue", declare("mine")),
    ("api", "delete a queue", delete("allocation.dead")),
    ("api", "read the commands", get("allocation.commands")),
    ("api", "read events", get("warehouse.events")),
    ("api", "tell an event", publish("allocation.events")),
    ("api", "steer a worker", publish("celery.pidbox")),
    ("operator", "declare a queue", declare("mine")),
    ("operator", "delete a queue", delete("warehouse.events")),
    ("warehouse", "read the commands", get("allocation.commands")),
    ("warehouse", "read another's events", get("notification.events")),
    ("warehouse", "delete its own queue", delete("warehouse.events")),
    ("warehouse", "send a command", publish("allocation.commands", "allocation.commands")),
    ("warehouse", "tell an event", publish("allocation.events")),
    ("warehouse", "bury in another's name", publish("notification.events.dead")),
    ("warehouse", "read what is told to us", get("allocation.inbound")),
    ("warehouse", "bind another queue", bind("notification.events", "allocation.events")),
    ("notification", "read another's events", get("warehouse.events")),
    ("notification", "send a command", publish("allocation.commands", "allocation.commands")),
    ("notification", "tell an event", publish("allocation.events")),
    ("inbound", "read the commands", get("allocation.commands")),
    ("inbound", "send a command", publish("allocation.commands", "allocation.commands")),
    ("inbound", "tell an event", publish("allocation.events")),
    ("inbound", "tell itself something", publish("allocation.inbound")),
    ("inbound", "purge dead letters", purge("allocation.inbound.dead")),
    ("relay", "read what others tell", get("allocation.inbound")),
    ("relay", "read the commands", get("allocation.commands")),
    ("relay", "read events", get("warehouse.events")),
    ("relay", "purge events", purge("warehouse.events")),
    ("relay", "steer a worker", publish("celery.pidbox")),
    ("worker", "send a command", publish("allocation.commands", "allocation.commands")),
    ("worker", "tell what others tell", publish("allocation.inbound")),
    ("worker", "write to a queue", publish("", "warehouse.events")),
    ("worker", "read events", get("warehouse.events")),
    ("worker", "purge dead letters", purge("allocation.dead")),
    ("flower", "send a command", publish("allocation.commands", "allocation.commands")),
    ("flower", "delay a command", publish("celery_delayed_27", "0.allocation.commands")),
    ("flower", "read the commands", get("allocation.commands")),
    ("flower", "tell an event", publish("allocation.events")),
]


def test_every_role_is_refused_what_is_not_its_work(
    users: Users, private_rabbitmq: PrivateRabbitMQ
) -> None:
    """Each act on a connection of its own."""
    before = len(private_rabbitmq.logs())
    with Connection(users.admin_url) as connection:
        Exchange("celery.pidbox", type="fanout")(connection.channel()).declare()
    allowed = []

    for role, what, act in FORBIDDEN:
        options = {"confirm_publish": True}
        with Connection(users.url(role), transport_options=options) as connection:
            try:
                act(connection)
            except AccessRefused:
                continue
        allowed.append((role, what))

    assert allowed == []
    assert "refused for user" in private_rabbitmq.logs()[before:]


def test_the_api_counts_and_replays_dead_letters_with_the_rights_of_its_role(users: Users) -> None:
    """Of every queue that has some."""
    confirmed = {"confirm_publish": True}
    with Connection(users.url("operator"), transport_options=confirmed) as connection:
        for queue in topology.dead_queues():
            connection.Producer().publish("{}", exchange="", routing_key=queue)

    with Connection(users.url("api"), transport_options=confirmed) as connection:
        counted = {queue: topology.depth(connection, queue) for queue in topology.names()}
        for letter in selected(connection, Selection(), lambda letters, _queue, _depth: letters):
            deliver_again(connection, letter)

    with Connection(users.url("operator")) as connection:
        left = {queue: topology.depth(connection, queue) for queue in topology.names()}
    dead = topology.dead_queues()
    assert counted == {queue: int(queue in dead) for queue in topology.names()}
    assert left == {queue: int(queue not in dead) for queue in topology.names()}


def test_a_changed_password_counts_once_the_topology_is_declared_again(users: Users) -> None:
    """The old one lets nobody in, the rights are the same."""
    before = users.url("warehouse")
    users.passwords["warehouse"] = token_hex(8)

    ended = users.make()

    assert (ended.returncode, users.passwords["warehouse"] in ended.stdout) == (0, False)
    with Connection(users.url("warehouse")) as connection:
        assert Queue("warehouse.events")(connection.channel()).get() is None
    with pytest.raises(AccessRefused), Connection(before) as connection:
        connection.connect()


def test_users_that_cannot_be_made_are_one_clear_sentence(users: Users) -> None:
    """Whoever runs it must be an administrator."""
    users.admin_url = users.url("operator")

    ended = users.make()

    assert ended.returncode == 1
    assert "ALLOCATION_BROKER_URL" in ended.stderr or "may not declare" in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not any(password in ended.stderr for password in users.passwords.values())
