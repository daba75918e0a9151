"""The command that deletes a subscriber's old rows.

The number of days is `subscriber_keep` in `workers.settings`.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import typer
from sqlalchemy import MetaData, and_, literal, select

from allocation.messaging import database, retention
from allocation.messaging.migrations import Migrations
from allocation.messaging.retention import Past
from workers.wiring import open_database


def _received_before(metadata: MetaData, limit: datetime) -> Past:
    """Ids of old events that had their effect, without the last event of each sku.

    Allocation keeps that event for ever, and may send it again.
    """
    received = metadata.tables["received"]
    progress = metadata.tables["progress"]
    last = select(literal(1)).where(
        progress.c.subject == received.c.subject,
        progress.c.next_sequence - 1 == received.c.sequence,
    )
    old = and_(received.c.received_at < limit, received.c.held.is_(None), ~last.exists())
    return Past(received.c.event_id, received.c.received_at, old)


@dataclass(frozen=True, slots=True)
class Kind:
    """Rows that are deleted if `past` selects them.

    The JSON output calls them `name`, the text output `one` or `many`.
    """

    name: str
    past: Callable[[MetaData, datetime], Past]
    one: str
    many: str


RECEIVED = Kind(
    "received",
    _received_before,
    one="record of a received event",
    many="records of received events",
)


def prune(
    database_url: str,
    migrations: Migrations,
    keep: int,
    *,
    dry_run: bool,
    as_json: bool,
    kinds: Sequence[Kind] = (RECEIVED,),
) -> None:
    """Delete, or only count, what is more than `keep` days old, and print how much it was."""
    limit = datetime.now(UTC) - timedelta(days=keep)
    numbers = dict.fromkeys(kinds, 0)
    try:
        engine = open_database(database_url, migrations)
        for kind in kinds:
            past = kind.past(migrations.metadata, limit)
            if dry_run:
                numbers[kind] = retention.count(engine, past)
            else:
                steps = retention.half_the_time(retention.delete_in_steps(engine, past))
                numbers[kind] = sum(steps)
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
