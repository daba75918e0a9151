"""The program `allocation`: the command line with the processes and the descriptions as commands.

Each command imports its entry point when it runs; entry points don't know each other.
"""

import sys
from functools import cache
from typing import TYPE_CHECKING

from allocation.messaging import garbage_collection

if TYPE_CHECKING:
    import typer


@cache
def command_line() -> "typer.Typer":
    """Every command of the program."""
    import json

    import typer

    from allocation.entrypoints.cli.main import DESCRIBE, RUN, app

    @app.command(rich_help_panel=RUN)
    def api() -> None:
        """Serve the HTTP API."""
        from allocation.entrypoints.api import server

        server.main()

    @app.command(rich_help_panel=RUN)
    def relay() -> None:
        """Publish the messages of the outbox to the broker, until stopped."""
        from allocation.entrypoints import relay

        relay.main()

    @app.command(rich_help_panel=RUN)
    def inbound() -> None:
        """Accept the events of other systems, until stopped."""
        from allocation.entrypoints import inbound

        inbound.main()

    def print_json(document: dict[str, object]) -> None:
        typer.echo(json.dumps(document, indent=2, ensure_ascii=False))

    @app.command(rich_help_panel=DESCRIBE)
    def openapi() -> None:
        """Print the OpenAPI description of the HTTP API as JSON."""
        from allocation.entrypoints.api.description import openapi

        print_json(openapi.document())

    @app.command(rich_help_panel=DESCRIBE)
    def asyncapi() -> None:
        """Print the AsyncAPI description of the messages as JSON."""
        from allocation.contract import asyncapi

        print_json(asyncapi.document())

    return app


def main() -> None:
    """Run the command line, under its name however it was started."""
    garbage_collection.relax()
    try:
        app = command_line()
    except ModuleNotFoundError as error:
        if not error.name or error.name.partition(".")[0] in ("allocation", "workers"):
            raise
        sys.exit(f"{error.name} is missing: the service needs the extra, `allocation[server]`")
    app(prog_name="allocation")


if __name__ == "__main__":
    main()
