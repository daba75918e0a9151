"""The warehouse: `python -m workers.warehouse` keeps the pick list, `... picks` shows it.

`... dispatch ORDERID` records that an order is shipped, or some pieces of it.
`... prune` deletes old records of events.
"""

import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from allocation.messaging import garbage_collection
from allocation.messaging.command_line import AsJson, DryRun, Program

if TYPE_CHECKING:
    from sqlalchemy.exc import DBAPIError

_NO_LIMIT = 100_000  # characters

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
    batchref: Annotated[str | None, typer.Option(help="Only goods of this batch.")] = None,
    qty: Annotated[
        int | None, typer.Option(min=1, help="Number of pieces; the rest stays to be picked.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Mark the order's open picks as dispatched; the running warehouse publishes the events.

    Picks whose goods have not arrived stay. With --qty, the picks must be of one sku.

    If the environment has a TRACEPARENT, the events belong to that trace.
    """
    from allocation.messaging.database import Outage
    from allocation.messaging.telemetry.escaping import escaped
    from workers.warehouse import running
    from workers.warehouse.dispatching import NothingToDispatch, Wanted

    try:
        leaving = running.dispatch(Wanted(orderid, sku, batchref, qty))
    except Outage as error:
        raise _unreachable(error) from error
    except NothingToDispatch as reason:
        for line in reason.args:
            typer.echo(escaped(line), err=True)
        raise typer.Exit(1) from reason
    if as_json:
        typer.echo(json.dumps({"dispatched": [asdict(each) for each in leaving]}))
        return
    for each in leaving:
        rest = f" {each.left} are left to be picked." if each.left else ""
        typer.echo(
            escaped(
                f"Dispatched {each.qty} x {each.sku} from the batch {each.batchref}"
                f" for the order {each.orderid}.{rest}"
            )
        )


@app.command()
def picks(
    orderid: Annotated[str | None, typer.Option(help="Only picks of this order.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the pick list; goods that are expected arrive on the day `eta`."""
    from rich.console import Console
    from rich.table import Column, Table
    from rich.text import Text

    from allocation.messaging.database import Outage
    from allocation.messaging.telemetry.escaping import escaped
    from workers.warehouse import pick_list
    from workers.warehouse.running import open_database
    from workers.warehouse.settings import Settings

    try:
        rows = pick_list.listed(open_database(Settings()), orderid)
    except Outage as error:
        raise _unreachable(error) from error
    # In a pipe nothing is cut to a width; the table is as wide as what it shows.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else _NO_LIMIT)
    if as_json:
        console.print_json(json.dumps(rows), ensure_ascii=True)
        return
    names = ("orderid", "sku", "part", "qty", "dispatched_qty", "batchref", "eta", "status")
    table = Table(*(Column(name, overflow="fold") for name in names), box=None)
    for row in rows:
        # No markup: names may have brackets.
        table.add_row(
            *(Text(escaped("" if row[name] is None else str(row[name]))) for name in names)
        )
    nothing = "The pick list is empty: nothing was allocated yet."
    if orderid is not None:
        nothing = escaped(f"The pick list has no pick for the order {orderid}.")
    console.print(table if rows else Text(nothing))


@app.command()
def prune(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Delete the records of events that are older than SUBSCRIBER_KEEP days; picks stay."""
    from workers import retention
    from workers.warehouse import dispatch_outbox
    from workers.warehouse.running import MIGRATIONS
    from workers.warehouse.settings import Settings

    settings = Settings()
    retention.prune(
        settings.warehouse_database_url,
        MIGRATIONS,
        settings.subscriber_keep,
        dry_run=dry_run,
        as_json=as_json,
        kinds=(retention.RECEIVED, dispatch_outbox.SENT),
    )


def _unreachable(error: "DBAPIError") -> typer.Exit:
    typer.echo(f"The warehouse's database can't be reached: {error.orig}", err=True)
    return typer.Exit(1)


if __name__ == "__main__":
    garbage_collection.relax()
    app(prog_name="python -m workers.warehouse")
