"""`allocation migrate` and `allocation topology`: they set the database and the broker up."""

import time
from typing import TYPE_CHECKING

import typer

from allocation.entrypoints.cli.terminal import ask_broker, ask_database, fail, print_answer
from allocation.messaging.command_line import AsJson

if TYPE_CHECKING:
    from allocation.bootstrap import Dependencies

SAY_EVERY = 5.0  # seconds


def migrate(as_json: AsJson = False) -> None:
    """Bring the database to the schema of this version; safe to run again."""
    from allocation.adapters.sql import migrations
    from allocation.settings import Settings

    settings = Settings()
    ask_database(settings, lambda: migrations.upgrade(settings.database_url), makes_it=True)
    schema = {"schema": migrations.newest()}
    print_answer("The database has the schema of this version.", schema, as_json=as_json)


def topology(as_json: AsJson = False) -> None:
    """Declare every exchange, queue and user at the broker; safe to run again."""
    from allocation import bootstrap

    queues, users = declare(bootstrap.build())
    sentence = f"The broker has the queues {', '.join(queues)}."
    if users:
        sentence += f"\nIt has the users {', '.join(users)}, each with the rights of its role."
    print_answer(sentence, {"queues": queues, "users": users}, as_json=as_json)


def declare(dependencies: "Dependencies") -> tuple[list[str], list[str]]:
    """Declare all of it; returns the names of the queues and of the users.

    Without an error if partitions can't be changed as no worker runs: in a deployment that starts,
    workers are started after this.
    """
    from allocation.adapters.rabbitmq import partitioning, permissions, topology
    from allocation.entrypoints.cli.partition_change import NoWorker, change

    settings = dependencies.settings

    def declare_queues() -> list[str]:
        with dependencies.broker() as connection:
            is_plain = settings.broker_transport is not None or (
                settings.partitions in (None, 1) and not partitioning.is_partitioned(connection)
            )
            others = topology.declare(connection, partitioned=not is_plain)
            if is_plain:
                return others
            # Workers and relay look the queues up in the database.
            try:
                divided = ask_database(
                    settings,
                    lambda: change(connection, dependencies.engine, settings.partitions, _Teller()),
                )
                return divided + others
            except NoWorker as reason:
                typer.echo(str(reason), err=True)
                return others

    try:
        queues = ask_broker(settings, declare_queues, makes_it=True)
        return queues, permissions.make_users(
            settings.broker_url,
            settings.broker_management_url,
            permissions.parse(settings.broker_users),
        )
    except (topology.Undeclared, permissions.NoUsers) as refusal:
        fail(str(refusal))


class _Teller:
    """Says how a change goes: at once, and then every SAY_EVERY seconds."""

    def __init__(self) -> None:
        self._said_at = -SAY_EVERY

    def __call__(self, sentence: str) -> None:
        if time.monotonic() - self._said_at >= SAY_EVERY:
            self._said_at = time.monotonic()
            typer.echo(sentence, err=True)
