"""What a subscriber forgets: the notes of events that came long ago, in small steps."""

import json
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer
from sqlalchemy import (
    ColumnElement,
    Engine,
    MetaData,
    Table,
    and_,
    delete,
    func,
    literal,
    select,
)

from workers import database

STEP = 500
"""Rows of one transaction."""

DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say how many there are.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]


def past(engine: Engine, metadata: MetaData, limit: datetime) -> int:
    """How many notes are past their time."""
    received = metadata.tables["received"]
    with engine.connect() as connection:
        query = select(func.count()).select_from(received).where(_doomed(metadata, limit))
        return connection.scalar(query) or 0


def drop(engine: Engine, metadata: MetaData, limit: datetime, step: int = STEP) -> Iterator[int]:
    """Drop them, `step` at a time; yields what each transaction dropped."""
    received = metadata.tables["received"]
    query = (
        select(received.c.event_id, received.c.received_at)
        .where(_doomed(metadata, limit))
        .order_by(received.c.received_at)
        .limit(step)
    )
    following = query
    while True:
        with engine.begin() as connection:
            rows = connection.execute(following).all()
            if not rows:
                return
            ids = [row.event_id for row in rows]
            gone = connection.execute(delete(received).where(received.c.event_id.in_(ids)))
        yield gone.rowcount
        following = query.where(received.c.received_at >= rows[-1].received_at)


def prune(
    open_database: Callable[[], Engine],
    metadata: MetaData,
    keep: int,
    *,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Drop, or only count, what came more than `keep` days ago, and say how much it was."""
    limit = datetime.now(UTC) - timedelta(days=keep)
    try:
        engine = open_database()
        number = past(engine, metadata, limit) if dry_run else 0
        began = time.monotonic()
        for dropped in () if dry_run else drop(engine, metadata, limit):
            number += dropped
            # Half of the time is left to the consumers.
            time.sleep(time.monotonic() - began)
            began = time.monotonic()
    except database.Outage as error:
        typer.echo(f"The database can't be reached: {error.orig}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        typer.echo(json.dumps({"dry_run": dry_run, "received": number}))
        return
    notes = "1 note of an event" if number == 1 else f"{number} notes of events"
    done = "would be dropped" if dry_run else "dropped"
    typer.echo(f"{notes} received before {limit:%Y-%m-%d %H:%M} (UTC) {done}.")


def _doomed(metadata: MetaData, limit: datetime) -> ColumnElement[bool]:
    """Old notes of events that had their effect.

    The last one of each sku stays: allocation keeps that event for ever, and may send it again.
    """
    received: Table = metadata.tables["received"]
    progress = metadata.tables["progress"]
    last = select(literal(1)).where(
        progress.c.sku == received.c.sku, progress.c.next_sequence - 1 == received.c.sequence
    )
    return and_(received.c.received_at < limit, received.c.held.is_(None), ~last.exists())
