"""What a subscriber forgets: what came or was sent long ago, in small steps."""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

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


def _old_notes(metadata: MetaData, limit: datetime) -> ColumnElement[bool]:
    """Old notes of events that had their effect.

    The last one of each sku stays: allocation keeps that event for ever, and may send it again.
    """
    received: Table = metadata.tables["received"]
    progress = metadata.tables["progress"]
    last = select(literal(1)).where(
        progress.c.subject == received.c.subject,
        progress.c.next_sequence - 1 == received.c.sequence,
    )
    return and_(received.c.received_at < limit, received.c.held.is_(None), ~last.exists())


def _old_tellings(metadata: MetaData, limit: datetime) -> ColumnElement[bool]:
    """What was sent; what was not has no time."""
    return metadata.tables["outgoing"].c.sent_at < limit


@dataclass(frozen=True, slots=True)
class Kind:
    """What is forgotten: rows of `table`, whose age the column `since` tells.

    `name` is what programs call it, `one` and `many` what people do.
    """

    name: str
    table: str
    since: str
    doomed: Callable[[MetaData, datetime], ColumnElement[bool]]
    one: str
    many: str


RECEIVED = Kind(
    *("received", "received", "received_at", _old_notes),
    one="note of an event received",
    many="notes of events received",
)
SENT = Kind(
    *("sent", "outgoing", "sent_at", _old_tellings),
    one="event sent",
    many="events sent",
)


def past(engine: Engine, metadata: MetaData, limit: datetime, kind: Kind = RECEIVED) -> int:
    """How many rows are past their time."""
    table = metadata.tables[kind.table]
    with engine.connect() as connection:
        query = select(func.count()).select_from(table).where(kind.doomed(metadata, limit))
        return connection.scalar(query) or 0


def drop(
    engine: Engine, metadata: MetaData, limit: datetime, kind: Kind = RECEIVED, step: int = STEP
) -> Iterator[int]:
    """Drop them, `step` at a time; yields what each transaction dropped."""
    table = metadata.tables[kind.table]
    since = table.c[kind.since]
    query = (
        select(table.c.event_id, since.label("since"))
        .where(kind.doomed(metadata, limit))
        .order_by(since)
        .limit(step)
    )
    following = query
    while True:
        with engine.begin() as connection:
            rows = connection.execute(following).all()
            if not rows:
                return
            ids = [row.event_id for row in rows]
            gone = connection.execute(delete(table).where(table.c.event_id.in_(ids)))
        yield gone.rowcount
        following = query.where(since >= rows[-1].since)


def prune(
    open_database: Callable[[], Engine],
    metadata: MetaData,
    keep: int,
    *,
    dry_run: bool,
    as_json: bool,
    kinds: Sequence[Kind] = (RECEIVED,),
) -> None:
    """Drop, or only count, what is more than `keep` days old, and say how much it was."""
    limit = datetime.now(UTC) - timedelta(days=keep)
    numbers = dict.fromkeys(kinds, 0)
    try:
        engine = open_database()
        for kind in kinds:
            if dry_run:
                numbers[kind] = past(engine, metadata, limit, kind)
                continue
            began = time.monotonic()
            for dropped in drop(engine, metadata, limit, kind):
                numbers[kind] += dropped
                # Half of the time is left to the consumers.
                time.sleep(time.monotonic() - began)
                began = time.monotonic()
    except database.Outage as error:
        typer.echo(f"The database can't be reached: {error.orig}", err=True)
        raise typer.Exit(1) from error
    if as_json:
        counted = {kind.name: number for kind, number in numbers.items()}
        typer.echo(json.dumps({"dry_run": dry_run} | counted))
        return
    done = "would be dropped" if dry_run else "dropped"
    for kind, number in numbers.items():
        what = kind.one if number == 1 else kind.many
        typer.echo(f"{number} {what} before {limit:%Y-%m-%d %H:%M} (UTC) {done}.")
