"""The warehouse: `python -m workers.warehouse` keeps the pick list, `... picks` shows it.

`... prune` forgets events that came long ago.
"""

import json
import sys
from datetime import timedelta
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy import Engine

from workers import database, logs, retention
from workers.inbox import Inbox
from workers.settings import Settings
from workers.subscriber import Subscriber, stop_signal
from workers.warehouse import pick_list
from workers.warehouse.messages import parse
from workers.warehouse.tables import VERSION_TABLE, metadata

QUEUE = "warehouse.events"
MIGRATIONS = Path(__file__).with_name("migrations")
_NO_LIMIT = 100_000  # characters

app = typer.Typer(add_completion=False, pretty_exceptions_enable=False, help=__doc__)


def open_database(settings: Settings) -> Engine:
    """The warehouse's database, with the tables of this version."""
    engine = database.engine(settings.warehouse_database_url)
    database.upgrade(engine, MIGRATIONS, VERSION_TABLE)
    return engine


@app.callback(invoke_without_command=True)
def consume(context: typer.Context) -> None:
    """Keep the pick list from the events, until stopped."""
    if context.invoked_subcommand:
        return
    stop = stop_signal()
    settings = Settings()
    logs.configure(settings)
    engine = database.engine(settings.warehouse_database_url)
    database.upgrade_when_there(engine, MIGRATIONS, VERSION_TABLE, stop)
    patience = timedelta(seconds=settings.subscriber_patience)
    inbox = Inbox(engine, metadata, pick_list.apply, patience)
    Subscriber(settings, QUEUE, parse, inbox).run(stop)


@app.command()
def picks(
    orderid: Annotated[str | None, typer.Option(help="Only this order's picks.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")] = False,
) -> None:
    """Show the pick list."""
    try:
        rows = pick_list.listed(open_database(Settings()), orderid)
    except database.Outage as error:
        typer.echo(f"The warehouse's database can't be reached: {error.orig}", err=True)
        raise typer.Exit(1) from error
    # In a pipe nothing is cut to a width; the table is as wide as what it shows.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else _NO_LIMIT)
    if as_json:
        console.print_json(json.dumps(rows))
        return
    names = ("orderid", "sku", "qty", "batchref", "status")
    table = Table(*(Column(name, overflow="fold") for name in names), box=None)
    for row in rows:
        table.add_row(*(Text(str(row[name])) for name in names))  # no markup: names have brackets
    nothing = "The pick list is empty: nothing was allocated yet."
    if orderid is not None:
        nothing = f"The pick list has nothing for the order {orderid}."
    console.print(table if rows else Text(nothing))


@app.command()
def prune(dry_run: retention.DryRun = False, as_json: retention.AsJson = False) -> None:
    """Forget events that came more than SUBSCRIBER_KEEP days ago; their picks stay."""
    settings = Settings()
    retention.prune(
        lambda: open_database(settings),
        metadata,
        settings.subscriber_keep,
        dry_run=dry_run,
        as_json=as_json,
    )


if __name__ == "__main__":
    app()
