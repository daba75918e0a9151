"""The warehouse's queue, given to the kit, and its dispatches."""

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Engine

from allocation.messaging.migrations import Migrations
from allocation.messaging.telemetry import trace_context, tracing
from workers import wiring
from workers.warehouse import dispatch_outbox, dispatching, pick_list
from workers.warehouse.dispatching import Leaving, Wanted
from workers.warehouse.messages import parse
from workers.warehouse.settings import Settings
from workers.warehouse.tables import VERSION_TABLE, metadata

MIGRATIONS = Migrations(Path(__file__).with_name("migrations"), metadata, VERSION_TABLE)


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


def dispatch(wanted: Wanted) -> Sequence[Leaving]:
    """Dispatch pieces of the order's picks, within the trace of TRACEPARENT, if it is set."""
    traceparent = trace_context.accepted(os.environ.get("TRACEPARENT"))
    settings = Settings()
    engine = open_database(settings)
    with tracing.making("warehouse", settings.broker_transport):
        span = tracing.begin(
            "dispatch", tracing.SpanKind.INTERNAL, traceparent, {"orderid": wanted.orderid}
        )
        with tracing.ending([span]):
            return dispatching.dispatch(engine, wanted, datetime.now(UTC), span.traceparent)
