"""The work of the warehouse's commands."""

import json
import os
import sys
from datetime import UTC, datetime
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from allocation.messaging import database
from allocation.messaging.migrations import Migrations
from allocation.messaging.telemetry import trace_context, tracing
from allocation.messaging.telemetry.escaping import escaped
from workers import retention, wiring
from workers.warehouse import dispatch_outbox, dispatching, pick_list
from workers.warehouse.messages import parse
from workers.warehouse.settings import Settings
from workers.warehouse.tables import VERSION_TABLE, metadata

MIGRATIONS = Migrations(Path(__file__).with_name("migrations"), metadata, VERSION_TABLE)
_NO_LIMIT = 100_000  # characters


def open_database(settings: Settings) -> Engine:
    """The warehouse's database, with the tables of this version."""
    return wiring.open_database(settings.warehouse_database_url, MIGRATIONS)


def consume() -> None:
    """Keep the pick list from the events, and publish what was dispatched, until stopped."""
    settings = Settings()
    wiring.consume(
        settings,
        name="warehouse",
        database_url=settings.warehouse_database_url,
        metrics_port=settings.warehouse_metrics_port,
        migrations=MIGRATIONS,
        parse=parse,
        apply=pick_list.apply,
        background=lambda engine, registry: dispatch_outbox.Relay(engine, settings, registry).run,
    )


def dispatch(orderid: str, sku: str | None, *, as_json: bool) -> None:
    """Mark the order's open picks as dispatched, within the trace of TRACEPARENT, if it is set."""
    traceparent = trace_context.accepted(os.environ.get("TRACEPARENT"))
    settings = Settings()
    try:
        engine = open_database(settings)
        with tracing.making("warehouse", settings.broker_transport):
            about = {"orderid": orderid}
            span = tracing.begin("dispatch", tracing.SpanKind.INTERNAL, traceparent, about)
            with tracing.ending([span]):
                leaving = dispatching.dispatch(
                    engine, orderid, sku, datetime.now(UTC), span.traceparent
                )
    except database.Outage as error:
        raise _unreachable(error) from error
    except dispatching.NothingToDispatch as reason:
        for line in reason.args:
            typer.echo(escaped(line), err=True)
        raise typer.Exit(1) from reason
    if as_json:
        shown = ("orderid", "sku", "qty", "batchref")
        rows = [{name: getattr(pick, name) for name in shown} for pick in leaving]
        typer.echo(json.dumps({"dispatched": rows}))
        return
    for pick in leaving:
        typer.echo(
            escaped(
                f"Dispatched {pick.qty} x {pick.sku} from the batch {pick.batchref}"
                f" for the order {pick.orderid}."
            )
        )


def picks(orderid: str | None, *, as_json: bool) -> None:
    """Show the pick list."""
    try:
        rows = pick_list.listed(open_database(Settings()), orderid)
    except database.Outage as error:
        raise _unreachable(error) from error
    # In a pipe nothing is cut to a width; the table is as wide as what it shows.
    console = Console(soft_wrap=True, width=None if sys.stdout.isatty() else _NO_LIMIT)
    if as_json:
        console.print_json(json.dumps(rows), ensure_ascii=True)
        return
    names = ("orderid", "sku", "part", "qty", "batchref", "status")
    table = Table(*(Column(name, overflow="fold") for name in names), box=None)
    for row in rows:
        # No markup: names may have brackets.
        table.add_row(*(Text(escaped(str(row[name]))) for name in names))
    nothing = "The pick list is empty: nothing was allocated yet."
    if orderid is not None:
        nothing = escaped(f"The pick list has no pick for the order {orderid}.")
    console.print(table if rows else Text(nothing))


def prune(*, dry_run: bool, as_json: bool) -> None:
    """Delete the ids of events that are more than SUBSCRIBER_KEEP days old; picks stay."""
    settings = Settings()
    retention.prune(
        settings.warehouse_database_url,
        MIGRATIONS,
        settings.subscriber_keep,
        dry_run=dry_run,
        as_json=as_json,
        kinds=(retention.RECEIVED, dispatch_outbox.SENT),
    )


def _unreachable(error: DBAPIError) -> typer.Exit:
    typer.echo(f"The warehouse's database can't be reached: {error.orig}", err=True)
    return typer.Exit(1)
