"""The servers that the tests bring by themselves keep what the tests rely on."""

import psycopg2
import pytest
from amqp.exceptions import NotAllowed
from kombu import Connection, Queue
from pytest_celery import CeleryTestSetup
from sqlalchemy import make_url

from allocation.adapters.rabbitmq import topology
from tests.servers.databases import Databases
from tests.servers.postgres import PrivatePostgres
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.waiting import eventually

pytestmark = pytest.mark.long


def test_rabbitmq_keeps_confirmed_messages_over_a_kill(private_rabbitmq: PrivateRabbitMQ) -> None:
    """And the node serves the next test."""
    url = private_rabbitmq.create_vhost()
    declare(url)
    queue = Queue("kept", durable=True, queue_arguments={"x-queue-type": "quorum"})
    with Connection(url, transport_options={"confirm_publish": True}) as connection:
        producer = connection.Producer()
        for number in range(20):
            producer.publish({"number": number}, routing_key="kept", declare=[queue])

    private_rabbitmq.kill()
    private_rabbitmq.start()
    private_rabbitmq.delete_vhost(url)  # as a test's end does, in the worst moment

    assert take_all(url, queue) == [{"number": number} for number in range(20)]
    declare(private_rabbitmq.create_vhost())


def test_rabbitmqctl_reaches_the_private_node(private_rabbitmq: PrivateRabbitMQ) -> None:
    """Commands go to the tests' own node, not to one of the machine."""
    vhost = Connection(private_rabbitmq.create_vhost()).virtual_host

    assert vhost in private_rabbitmq.ctl("list_vhosts").split()


def test_postgresql_keeps_committed_rows_over_a_kill(private_postgres: PrivatePostgres) -> None:
    """A committed row is there after SIGKILL and a new start, an open transaction's is not."""
    url = private_postgres.create_database()
    committed, left_open = connect(url), connect(url)
    run(committed, "CREATE TABLE kept (number int)")
    run(committed, "INSERT INTO kept VALUES (1)")
    committed.commit()
    run(left_open, "INSERT INTO kept VALUES (2)")

    private_postgres.kill()
    private_postgres.start()

    assert rows(url, "SELECT number FROM kept") == [(1,)]


def test_two_databases_of_one_template_see_nothing_of_each_other(postgres: Databases) -> None:
    """Copies begin alike, and what one of them is given stays there."""
    template = postgres.create_database()
    run_and_close(template, "CREATE TABLE things (name text)")
    first = postgres.create_database(template)
    second = postgres.create_database(template)

    run_and_close(first, "INSERT INTO things VALUES ('lamp')")

    assert rows(first, "SELECT name FROM things") == [("lamp",)]
    assert rows(second, "SELECT name FROM things") == []
    for url in (first, second, template):
        postgres.drop_database(url)


def test_two_virtual_hosts_see_nothing_of_each_other(private_rabbitmq: PrivateRabbitMQ) -> None:
    """Queues of one name in two virtual hosts are two queues."""
    first, second = private_rabbitmq.create_vhost(), private_rabbitmq.create_vhost()
    queue = Queue("shared-name", durable=True)
    with Connection(first) as connection, Connection(second) as other:
        queue(other.default_channel).declare()
        connection.Producer().publish("lamp", routing_key=queue.name, declare=[queue])

    assert take_all(first, queue) == ["lamp"]
    assert take_all(second, queue) == []
    for url in (first, second):
        private_rabbitmq.delete_vhost(url)
    with pytest.raises(NotAllowed), Connection(first) as gone:
        gone.connect()


def declare(url: str) -> None:
    """Every queue of ours; raises where one is unusable."""
    with Connection(url) as connection:
        topology.declare(connection)


def test_a_killed_worker_node_answers_again_when_restarted(celery_setup: CeleryTestSetup) -> None:
    """pytest-celery's remote control, SIGKILL and restart work on nodes that are processes."""
    worker = celery_setup.worker
    here = [{worker.hostname(): {"ok": "pong"}}]
    before = celery_setup.app.control.ping(timeout=5, limit=1)
    first_pid = worker.container.process.pid

    worker.kill()
    status, returncode = worker.container.status, worker.container.process.returncode
    worker.restart()
    after = eventually(lambda: celery_setup.app.control.ping(timeout=1, limit=1), what="a pong")

    assert (before, status, returncode, after) == (here, "exited", -9, here)
    assert worker.container.process.pid != first_pid
    worker.assert_log_exists("ready")


def take_all(url: str, queue: Queue) -> list[object]:
    """The bodies of all messages of the queue, which is emptied."""
    bodies = []
    with Connection(url) as connection:
        bound = queue(connection.default_channel)
        while (message := bound.get(no_ack=True)) is not None:
            bodies.append(message.decode())
    return bodies


def connect(url: str) -> "psycopg2.extensions.connection":
    return psycopg2.connect(make_url(url).set(drivername="postgresql").render_as_string(False))


def run(connection: "psycopg2.extensions.connection", statement: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(statement)


def run_and_close(url: str, statement: str) -> None:
    connection = connect(url)
    run(connection, statement)
    connection.commit()
    connection.close()


def rows(url: str, query: str) -> list[tuple[object, ...]]:
    connection = connect(url)
    with connection.cursor() as cursor:
        cursor.execute(query)
        found = cursor.fetchall()
    connection.close()
    return found
