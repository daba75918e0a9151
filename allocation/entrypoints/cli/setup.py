"""Commands that set the service up, prove its books."""

import json
from dataclasses import asdict

import typer

from allocation import bootstrap
from allocation.adapters.rabbitmq import permissions, topology
from allocation.adapters.sql import audit
from allocation.entrypoints.cli.terminal import console, fail, reaching
from allocation.messaging.telemetry.escaping import escaped
from allocation.settings import Settings


def migrate(*, as_json: bool) -> None:
    """Bring the database to the schema of this version; safe to run again."""
    url = bootstrap.settings().database_url
    from allocation.adapters.sql import migrations  # Alembic: a sixth of every command's start

    reaching("the database", lambda: migrations.upgrade(url), makes_it=True)
    if as_json:
        console.print_json(json.dumps({"schema": migrations.newest()}))
    else:
        console.print("The database has the schema of this version.")


def declare_topology(*, as_json: bool) -> None:
    """Declare every exchange, queue and user at the broker; safe to run again."""
    queues, users = declare(bootstrap.settings())
    if as_json:
        console.print_json(json.dumps({"queues": queues, "users": users}))
        return
    console.print(f"The broker has the queues {', '.join(queues)}.")
    if users:
        console.print(f"It has the users {', '.join(users)}, each with the rights of its role.")


def declare(settings: Settings) -> tuple[list[str], list[str]]:
    """Declare all of it; returns the names of the queues and of the users."""

    def at_broker() -> list[str]:
        with bootstrap.broker() as connection:
            return topology.declare(connection)

    try:
        queues = reaching("the broker", at_broker, makes_it=True)
        return queues, permissions.make_users(
            settings.broker_url,
            settings.broker_management_url,
            permissions.parse(settings.broker_users),
        )
    except (topology.Undeclared, permissions.NoUsers) as refusal:
        fail(str(refusal))


def prove(*, as_json: bool) -> None:
    """Prove the books: one line a promise; exit status 1 when one does not hold."""
    settings = bootstrap.settings()
    engine = bootstrap.engine(settings.database_url)
    proofs = reaching(
        "the database",
        lambda: [
            _shown(proof, quiet=as_json) for proof in audit.run(engine, settings.resend_after)
        ],
    )
    if as_json:
        rows = [asdict(proof) | {"holds": proof.holds} for proof in proofs]
        console.print_json(json.dumps(rows))
    if not all(proof.holds for proof in proofs):
        raise typer.Exit(1)


def _shown(proof: audit.Result, *, quiet: bool) -> audit.Result:
    if not quiet:
        verdict = "[green]holds [/green]" if proof.holds else "[red]BROKEN[/red]"
        console.print(f"{verdict} {proof.promise} ({proof.examined} examined)")
        for breach in proof.broken:
            console.print(f"         {escaped(str(breach))}", markup=False)
    return proof
