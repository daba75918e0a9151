"""The warehouse: `python -m workers.warehouse` keeps the pick list, `... picks` shows it.

`... dispatch ORDERID` says that an order's goods leave.
`... prune` forgets what came or was told long ago.
"""

from typing import Annotated

import typer

from allocation.messaging import garbage_collection
from allocation.messaging.command_line import AsJson, DryRun, Program

app = Program(help=__doc__)


@app.callback(invoke_without_command=True)
def consume(context: typer.Context) -> None:
    """Keep the pick list from the events, and tell what was dispatched, until stopped."""
    if context.invoked_subcommand:
        return
    from workers.warehouse import running

    running.consume()


@app.command()
def dispatch(
    orderid: Annotated[str, typer.Argument(help="The order whose goods leave.")],
    sku: Annotated[str | None, typer.Option(help="Only this sku's.")] = None,
    as_json: AsJson = False,
) -> None:
    """Mark the order's open picks as dispatched; allocation is told by the warehouse's process.

    Where the environment has a TRACEPARENT, what is told is a part of that trace.
    """
    from workers.warehouse import running

    running.dispatch(orderid, sku, as_json=as_json)


@app.command()
def picks(
    orderid: Annotated[str | None, typer.Option(help="Only this order's picks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the pick list."""
    from workers.warehouse import running

    running.picks(orderid, as_json=as_json)


@app.command()
def prune(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Forget events that came, or were told, more than SUBSCRIBER_KEEP days ago; picks stay."""
    from workers.warehouse import running

    running.prune(dry_run=dry_run, as_json=as_json)


if __name__ == "__main__":
    garbage_collection.relax()
    app(prog_name="python -m workers.warehouse")
