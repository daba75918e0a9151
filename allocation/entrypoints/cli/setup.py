"""Commands that set the service up, and prove its books."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import typer

from allocation.entrypoints.cli.terminal import (
    FAILED,
    ask_broker,
    ask_database,
    console,
    fail,
    print_answer,
)
from allocation.messaging.command_line import AsJson
from allocation.messaging.telemetry.escaping import escaped

if TYPE_CHECKING:
    from allocation.adapters.sql import audit
    from allocation.bootstrap import Dependencies


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
    """Declare all of it; returns the names of the queues and of the users."""
    from allocation.adapters.rabbitmq import permissions, topology

    settings = dependencies.settings

    def declare_queues() -> list[str]:
        with dependencies.broker() as connection:
            return topology.declare(connection)

    try:
        queues = ask_broker(settings, declare_queues, makes_it=True)
        return queues, permissions.make_users(
            settings.broker_url,
            settings.broker_management_url,
            permissions.parse(settings.broker_users),
        )
    except (topology.Undeclared, permissions.NoUsers) as refusal:
        fail(str(refusal))


def check(as_json: AsJson = False) -> None:
    """Audit the books: one line for each invariant; exit status 1 if one is violated."""
    from allocation import bootstrap
    from allocation.adapters.sql import audit

    dependencies = bootstrap.build()
    settings = dependencies.settings

    def proved() -> list[audit.Result]:
        proofs = []
        for proof in audit.run(dependencies.engine, settings.resend_after):
            proofs.append(proof)
            if not as_json:
                _print_proof(proof)
        return proofs

    proofs = ask_database(settings, proved)
    if as_json:
        rows = [asdict(proof) | {"holds": proof.holds} for proof in proofs]
        console.print_json(data=rows)
    if not all(proof.holds for proof in proofs):
        raise typer.Exit(FAILED)


def _print_proof(proof: "audit.Result") -> None:
    verdict = "[green]holds [/green]" if proof.holds else "[red]BROKEN[/red]"
    console.print(f"{verdict} {proof.promise} ({proof.examined} examined)")
    for breach in proof.broken:
        console.print(f"         {escaped(str(breach))}", markup=False)
