"""The broker and the database stop, die, freeze and drop their connections under load."""

import time
from urllib.parse import urlsplit

import pytest
from sqlalchemy import text

from tests.faults import scale
from tests.faults.conftest import Deploy
from tests.faults.run import Run
from tests.servers.postgres import PrivatePostgres
from tests.servers.rabbitmq import PrivateRabbitMQ

pytestmark = [pytest.mark.matrix, pytest.mark.timeout(600)]


def vhost(run: Run) -> str:
    return urlsplit(run.system.addresses.broker).path[1:]


def test_the_broker_stopped_and_started(deploy: Deploy, private_rabbitmq: PrivateRabbitMQ) -> None:
    """In order, as for an upgrade; then for longer than clients like to wait."""
    run = deploy()

    with run.load.running(scale.RATE):
        private_rabbitmq.restart()
        run.fault("broker stopped and started")
        run.system.wait_until_ready()
        private_rabbitmq.stop()
        time.sleep(20)  # the length of the outage is the fault
        private_rabbitmq.start()
        run.fault("broker away for 20 s")

    run.prove()


def test_the_broker_killed(deploy: Deploy, private_rabbitmq: PrivateRabbitMQ) -> None:
    """What it confirmed is on its disk, and what was not confirmed is sent again."""
    run = deploy()

    with run.load.running(scale.RATE):
        for _ in range(scale.times(3)):
            private_rabbitmq.kill()
            private_rabbitmq.start()
            run.fault("broker kill -9")
            time.sleep(3)  # some work between two kills

    run.prove()


def test_every_connection_to_the_broker_closed_at_once(
    deploy: Deploy, private_rabbitmq: PrivateRabbitMQ
) -> None:
    """Everybody connects again; what was held is delivered again."""
    run = deploy()

    with run.load.running(scale.RATE):
        for _ in range(scale.times(6)):
            private_rabbitmq.ctl("close_all_connections", "--vhost", vhost(run), "a test closes it")
            run.fault("all AMQP connections closed")
            time.sleep(0.5)  # some work between two faults

    run.prove()


def test_a_memory_alarm(deploy: Deploy, private_rabbitmq: PrivateRabbitMQ) -> None:
    """Publishers wait, nothing hangs for good, and what is confirmed is safe."""
    run = deploy()

    with run.load.running(scale.RATE):
        for _ in range(scale.times(2)):
            private_rabbitmq.ctl("set_vm_memory_high_watermark", "0.00001")
            time.sleep(8)  # the length of the alarm is the fault
            private_rabbitmq.ctl("set_vm_memory_high_watermark", "0.4")
            run.fault("memory alarm")

    run.prove()


def test_the_database_frozen(deploy: Deploy, private_postgres: PrivatePostgres) -> None:
    """It neither answers nor hangs up for five seconds."""
    run = deploy()

    with run.load.running(scale.RATE):
        for _ in range(scale.times(3)):
            with private_postgres.frozen():
                time.sleep(5)  # the length of the frost is the fault
            run.fault("PostgreSQL frozen 5 s")

    run.prove()


def test_the_databases_sessions_terminated(deploy: Deploy) -> None:
    """All at once, in all three databases, whatever they were doing."""
    run = deploy()
    cut = text(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
        " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
    )

    with run.load.running(scale.RATE):
        for _ in range(scale.times(8)):
            with run.system.engine.connect() as connection:
                connection.execute(cut)
            run.fault("PostgreSQL's sessions terminated")
            time.sleep(0.5)  # some work between two faults

    run.prove()


def test_the_database_killed(deploy: Deploy, private_postgres: PrivatePostgres) -> None:
    """What it committed is in its log, and what it did not is done again."""
    run = deploy()

    with run.load.running(scale.RATE):
        for _ in range(scale.times(3)):
            private_postgres.kill()
            private_postgres.start()
            run.fault("PostgreSQL kill -9")
            time.sleep(1)  # some work between two kills

    run.prove()
