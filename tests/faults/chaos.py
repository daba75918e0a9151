"""Faults that can follow one another on a living system, each injected and over by one call."""

import random
import signal
import time
from collections.abc import Callable
from functools import partial
from urllib.parse import urlsplit

from sqlalchemy import text

from tests.faults.run import Run
from tests.faults.system import signal_all
from tests.servers.postgres import PrivatePostgres
from tests.servers.rabbitmq import PrivateRabbitMQ

Fault = Callable[[], object]


def faults(run: Run, rabbitmq: PrivateRabbitMQ, postgres: PrivatePostgres) -> dict[str, Fault]:
    """Each by its name."""
    system = run.system
    vhost = urlsplit(system.addresses.broker).path[1:]

    def terminate_sessions() -> None:
        with system.engine.connect() as connection:
            connection.execute(
                text(
                    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
                    " WHERE pid <> pg_backend_pid() AND backend_type = 'client backend'"
                )
            )

    def freeze() -> None:
        with postgres.frozen():
            time.sleep(1)  # the length of the frost is the fault

    return {
        "kill -9 of pool children": lambda: signal_all(system.children("worker-1"), signal.SIGKILL),
        **{f"kill -9 of {name}": partial(system.kill, name) for name in system.members},
        **{f"SIGTERM of {name}": partial(system.roll, name) for name in system.members},
        "all AMQP connections closed": lambda: rabbitmq.ctl(
            "close_all_connections", "--vhost", vhost, "a test closes it"
        ),
        "PostgreSQL's sessions terminated": terminate_sessions,
        "PostgreSQL frozen": freeze,
    }


def inject(run: Run, known: dict[str, Fault], chance: random.Random, count: int) -> None:
    """`count` of them by chance, with about a second between two."""
    names = sorted(known)
    for _ in range(count):
        run.system.wait_until_ready()
        time.sleep(chance.random())  # the moment is the seed's choice
        name = chance.choice(names)
        known[name]()
        run.fault(name)
