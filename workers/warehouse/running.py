"""The work of the warehouse's commands."""

import json
import os
import sys
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import typer
from rich.console import Console
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy import Engine
from sqlalchemy.exc import DBAPIError

from allocation.messaging import database
from allocation.messaging.lifecycle import stop_signal
from allocation.messaging.migrations import Migrations
from allocation.messaging.resequencer import Resequencer
from allocation.messaging.telemetry import logs, metrics_server, trace_context, tracing
from allocation.messaging.telemetry.escaping import escaped
from allocation.messaging.telemetry.subscriber_metrics import SubscriberMetrics
from workers import retention
from workers.warehouse import dispatching, outbox, pick_list
from workers.warehouse.messages import parse
from workers.warehouse.relay import Relay
from workers.warehouse.settings import Settings
from workers.warehouse.tables import VERSION_TABLE, metadata
from workers.wiring import subscriber

QUEUE = "warehouse.events"
MIGRATIONS = Migrations(Path(__file__).with_name("migrations"), metadata, VERSION_TABLE)
_NO_LIMIT = 100_000  # characters


def open_database(settings: Settings) -> Engine:
    """The warehouse's database, with the tables of this version."""
    engine = database.engine(settings.warehouse_database_url)
    MIGRATIONS.upgrade(engine)
    return engine


def consume() -> None:
    """Keep the pick list from the events, and publish what was dispatched, until stopped."""
    stop = stop_signal()
    settings = Settings()
    logs.configure(settings.allocation_log_format)
    metrics = SubscriberMetrics("warehouse")
    metrics_server.serve(
        metrics.registry,
        settings.allocation_metrics_host,
        settings.warehouse_metrics_port,
        "warehouse",
    )
    engine = database.engine(settings.warehouse_database_url)
    MIGRATIONS.upgrade_when_reachable(engine, stop)
    patience = timedelta(seconds=settings.subscriber_patience)
    resequencer = Resequencer(engine, metadata, pick_list.apply, patience)
    relay = Relay(engine, settings, metrics.registry)
    tracing.start("warehouse", settings.broker_transport)
    relaying = threading.Thread(target=relay.run, args=(stop,), name="relay")
    relaying.start()
    try:
        subscriber(settings, QUEUE, parse, resequencer, metrics).run(stop)
    finally:
        stop.set()
        relaying.join()
        tracing.stop()


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
        nothing = escaped(f"The pick list has nothing for the order {orderid}.")
    console.print(table if rows else Text(nothing))


def prune(*, dry_run: bool, as_json: bool) -> None:
    """Delete the ids of events that are more than SUBSCRIBER_KEEP days old; picks stay."""
    settings = Settings()
    retention.prune(
        lambda: open_database(settings),
        metadata,
        settings.subscriber_keep,
        dry_run=dry_run,
        as_json=as_json,
        kinds=(retention.RECEIVED, outbox.SENT),
    )


def _unreachable(error: DBAPIError) -> typer.Exit:
    typer.echo(f"The warehouse's database can't be reached: {error.orig}", err=True)
    return typer.Exit(1)
