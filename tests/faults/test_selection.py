"""What every run has of the fault matrix: a few faults in a row, chosen by the seed."""

import random

import pytest

from tests.faults import chaos, scale
from tests.faults.conftest import Deploy
from tests.servers.postgres import PrivatePostgres
from tests.servers.rabbitmq import PrivateRabbitMQ


@pytest.mark.long
@pytest.mark.timeout(240)
def test_a_few_faults_in_a_row(
    deploy: Deploy,
    chance: random.Random,
    private_rabbitmq: PrivateRabbitMQ,
    private_postgres: PrivatePostgres,
) -> None:
    """Nothing is lost, nothing doubled, and the system is back at work by itself."""
    run = deploy()
    known = chaos.faults(run, private_rabbitmq, private_postgres)

    with run.load.running(scale.RATE / 2):
        chaos.inject(run, known, chance, count=4)

    # Four test processes share the machine in `make test`; `make faults` has it for itself.
    run.prove(back_within=3 * scale.BACK_AT_WORK)


@pytest.mark.matrix
@pytest.mark.timeout(600)
def test_many_faults_in_a_row(
    deploy: Deploy,
    chance: random.Random,
    private_rabbitmq: PrivateRabbitMQ,
    private_postgres: PrivatePostgres,
) -> None:
    """Whatever comes after whatever."""
    run = deploy(workers=2, concurrency=1)
    run.load.send(scale.commands(1000))
    known = chaos.faults(run, private_rabbitmq, private_postgres)

    with run.load.running(scale.RATE):
        chaos.inject(run, known, chance, count=scale.times(25))

    run.prove()
