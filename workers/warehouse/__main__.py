"""The warehouse: `python -m workers.warehouse` keeps the pick list, `... picks` shows it.

`... dispatch ORDERID` records that an order is shipped.
`... prune` deletes old records of events.
"""

from typing import Annotated

import typer

from allocation.messaging.command_line import AsJson, DryRun, Program

app = Program(help=__doc__)


@app.callback(invoke_without_command=True)
def consume(context: typer.Context) -> None:
    """Consume events into the pick list and publish what was dispatched, until stopped."""
    if context.invoked_subcommand:
        return
    from workers.warehouse import running

    running.consume()


@app.command()
def dispatch(
    orderid: Annotated[str, typer.Argument(help="The order that is shipped.")],
    sku: Annotated[str | None, typer.Option(help="Only this sku.")] = None,
    as_json: AsJson = False,
) -> None:
    """Mark the order's open picks as dispatched; the running warehouse publishes the events.

    If the environment has a TRACEPARENT, the events belong to that trace.
    """
    from workers.warehouse import running

    running.dispatch(orderid, sku, as_json=as_json)


@app.command()
def picks(
    orderid: Annotated[str | None, typer.Option(help="Only picks of this order.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the pick list."""
    from workers.warehouse import running

    running.picks(orderid, as_json=as_json)


@app.command()
def prune(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Delete the records of events that are older than SUBSCRIBER_KEEP days; picks stay."""
    from workers.warehouse import running

    running.prune(dry_run=dry_run, as_json=as_json)


if __name__ == "__main__":
    app(prog_name="python -m workers.warehouse")
