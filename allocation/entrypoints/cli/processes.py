"""Commands that run processes: all of them, the demonstration, or one."""

import os
import signal

from allocation import bootstrap
from allocation.adapters.sql import migrations
from allocation.entrypoints import inbound, relay
from allocation.entrypoints.cli import demo, setup
from allocation.entrypoints.cli import up as house
from allocation.entrypoints.cli.terminal import console, fail, reaching
from allocation.messaging import lifecycle
from allocation.messaging.telemetry import logs, tracing


def up() -> None:
    """Run everything on this machine, until Ctrl-C or until a process stops."""
    # Ctrl-C ends the preparations at once, also while a database is slow: nothing runs yet.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    settings = bootstrap.settings()
    try:
        locks = house.claim(settings)
    except house.Unavailable as refusal:
        fail(str(refusal))
    reaching("the database", lambda: migrations.upgrade(settings.database_url), makes_it=True)
    setup.declare(settings)
    ended = house.run(settings, os.environ, locks)
    if ended.broke:
        name, status = ended.broke
        fail(
            f"{name} stopped with exit status {status}, so everything was stopped;"
            " its last lines above say why"
        )


def run_demo() -> None:
    """Play the whole story on the embedded default, in a temporary folder, and end."""
    page = house.page(bootstrap.settings())
    try:
        demo.play(console)
    except demo.StepFailed as failure:
        fail(str(failure))
    console.print(
        "Everything held. Next: `make up` (or `allocation up`) keeps the service running;"
        f" then open its page, {page}."
        " README.md shows how other services send commands and hear events."
    )


def api() -> None:
    """Serve the HTTP API."""
    from allocation.entrypoints.api import server

    dependencies = bootstrap.build()
    logs.configure(dependencies.settings.log_format, dependencies.settings.log_level)
    server.serve(dependencies)


def run_relay() -> None:
    """Send what the outbox holds to the broker, until stopped."""
    dependencies = bootstrap.build()
    settings = dependencies.settings
    logs.configure(settings.log_format, settings.log_level)
    with tracing.making("allocation-relay", settings.broker_transport):
        relay.run(dependencies, lifecycle.stop_signal())


def run_inbound() -> None:
    """Accept the events of other systems, until stopped."""
    dependencies = bootstrap.build()
    settings = dependencies.settings
    logs.configure(settings.log_format, settings.log_level)
    with tracing.making("allocation-inbound", settings.broker_transport):
        inbound.run(dependencies, lifecycle.stop_signal())
