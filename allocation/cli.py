"""The command line for people: run the processes, look at the state, prove the books."""

import json
import os
from dataclasses import asdict

import typer
from pydantic import ValidationError

from allocation import (
    asyncapi,
    bootstrap,
    check,
    demo,
    inbound,
    lifecycle,
    logs,
    relay,
    supervisor,
    tracing,
)
from allocation.adapters import roles, topology
from allocation.escaping import escaped
from allocation.tools import dead, export, keys
from allocation.tools.import_batches import import_batches
from allocation.tools.prune import prune
from allocation.tools.replay import replay
from allocation.tools.status import status
from allocation.tools.terminal import MISUSED, AsJson, console, fail, reaching

app = typer.Typer(
    name="allocation",
    help="Promises each order line stock from a batch, and tells everyone else by messages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


app.add_typer(dead.app)
app.add_typer(export.app)
app.add_typer(keys.app)
app.command()(import_batches)
app.command()(prune)
app.command()(replay)
app.command()(status)


@app.command()
def up() -> None:
    """Run everything on this machine: api, worker, relay, inbound, subscribers, flower."""
    settings = bootstrap.settings()
    migrate()
    declare_topology()
    environment = dict(os.environ)
    login = supervisor.flower_login(environment)
    if login is not None:
        environment["FLOWER_BASIC_AUTH"] = login
    console.print("Starting; Ctrl-C stops everything.")
    for name, address in supervisor.addresses(settings, login).items():
        console.print(f"  {name:7} {address}", markup=False, highlight=False)
    ports = supervisor.metrics_ports(settings)
    for name, (_, port) in ports.items():
        console.print(f"The metrics of {name}: http://{settings.metrics_host}:{port}/metrics")
    ended = supervisor.run(supervisor.processes(settings), environment, ports)
    if ended.broke:
        name, status = ended.broke
        fail(
            f"{name} stopped with exit status {status}, so everything was stopped;"
            " its last lines above say why"
        )
    raise typer.Exit(0 if ended.returncode in (130, 143) else ended.returncode or 0)


@app.command("demo")
def run_demo() -> None:
    """Play the whole story on the embedded default, in a temporary folder, and end."""
    try:
        demo.play(console)
    except demo.StepFailed as failure:
        fail(str(failure))
    console.print(
        "Everything held. Next: `make up` (or `allocation up`) keeps the service running;"
        f" then open its page, {supervisor.page(bootstrap.settings())}."
        " README.md shows how other services send commands and hear events."
    )


@app.command()
def api() -> None:
    """Serve the HTTP API."""
    from allocation.api import server

    logs.configure(bootstrap.settings())
    server.serve(bootstrap.settings())


@app.command("openapi")
def describe_api() -> None:
    """Print the description of the HTTP API: OpenAPI, as JSON."""
    from allocation.api import openapi

    _describe(openapi.document())


@app.command("asyncapi")
def describe_messages() -> None:
    """Print the description of the messages: AsyncAPI, as JSON."""
    _describe(asyncapi.document())


def _describe(document: dict[str, object]) -> None:
    typer.echo(json.dumps(document, indent=2, ensure_ascii=False))


@app.command("relay")
def run_relay() -> None:
    """Send what the outbox holds to the broker, until stopped."""
    logs.configure(bootstrap.settings())
    with tracing.making("relay", bootstrap.settings()):
        relay.run(lifecycle.stop_signal())


@app.command("inbound")
def run_inbound() -> None:
    """Accept what other systems tell as events, until stopped."""
    logs.configure(bootstrap.settings())
    with tracing.making("inbound", bootstrap.settings()):
        inbound.run(lifecycle.stop_signal())


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Bring the database to the schema of this version; safe to run again."""
    url = bootstrap.settings().database_url
    from allocation.adapters import migrations  # Alembic: a sixth of every command's start

    reaching("the database", lambda: migrations.upgrade(url))
    if as_json:
        console.print_json(json.dumps({"schema": migrations.newest()}))
    else:
        console.print("The database has the schema of this version.")


@app.command("topology")
def declare_topology(as_json: AsJson = False) -> None:
    """Declare every exchange, queue and user at the broker; safe to run again."""

    def declare() -> list[str]:
        with bootstrap.broker() as connection:
            return topology.declare(connection)

    settings = bootstrap.settings()
    try:
        queues = reaching("the broker", declare)
        users = roles.make_users(
            settings.broker_url, settings.broker_management_url, roles.parse(settings.broker_users)
        )
    except (topology.Undeclared, roles.NoUsers) as refusal:
        fail(str(refusal))
    if as_json:
        console.print_json(json.dumps({"queues": queues, "users": users}))
        return
    console.print(f"The broker has the queues {', '.join(queues)}.")
    if users:
        console.print(f"It has the users {', '.join(users)}, each with the rights of its role.")


@app.command("check")
def prove(as_json: AsJson = False) -> None:
    """Prove the books: one line a promise; exit status 1 when one does not hold."""
    engine = bootstrap.engine(bootstrap.settings().database_url)
    proofs = reaching(
        "the database",
        lambda: [_shown(proof, quiet=as_json) for proof in check.prove(engine)],
    )
    if as_json:
        rows = [asdict(proof) | {"holds": proof.holds} for proof in proofs]
        console.print_json(json.dumps(rows))
    if not all(proof.holds for proof in proofs):
        raise typer.Exit(1)


def _shown(proof: check.Proof, *, quiet: bool) -> check.Proof:
    if not quiet:
        verdict = "[green]holds [/green]" if proof.holds else "[red]BROKEN[/red]"
        console.print(f"{verdict} {proof.promise} ({proof.examined} examined)")
        for breach in proof.broken:
            console.print(f"         {escaped(str(breach))}", markup=False)
    return proof


@app.callback()
def _read_settings() -> None:
    """A setting that can't be used is one clear sentence; help and completion need none."""
    try:
        bootstrap.settings()
    except ValidationError as error:
        for problem in error.errors():
            variable = "ALLOCATION_" + "_".join(str(part) for part in problem["loc"]).upper()
            typer.echo(f"allocation: {variable}: {problem['msg']}", err=True)
        raise typer.Exit(MISUSED) from error


def main() -> None:
    """Run the command line, under its name however it was started."""
    app(prog_name="allocation")


if __name__ == "__main__":
    main()
