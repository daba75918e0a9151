"""`allocation prune`: drop the events and commands that are past their time."""

import json
from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from allocation import bootstrap
from allocation.adapters.sql import retention
from allocation.adapters.sql.retention import Limits, Number
from allocation.entrypoints.cli.terminal import console, progress, reaching
from allocation.messaging.retention import half_the_time


def prune(*, dry_run: bool, as_json: bool) -> None:
    """Drop sent events and decided commands that are past their time; safe to break off."""
    settings = bootstrap.settings()
    now = datetime.now(UTC)
    limits = Limits(
        events=now - timedelta(days=settings.keep_events),
        commands=now - timedelta(days=settings.keep_commands),
    )
    engine = bootstrap.engine(settings.database_url)
    found = reaching("the database", lambda: retention.past(engine, limits))
    dropped = Number()
    if not dry_run:
        steps = half_the_time(retention.drop(engine, limits))
        with progress("pruning", found.events + found.commands, quiet=as_json) as advance:
            while step := reaching("the database", lambda: next(steps, None)):
                dropped += step
                advance(step.events + step.commands)
    shown = found if dry_run else dropped
    if as_json:
        console.print_json(json.dumps({"dry_run": dry_run} | asdict(shown)))
    else:
        console.print(
            f"{_counted(shown.events, 'event')} sent before {limits.events:%Y-%m-%d %H:%M} and"
            f" {_counted(shown.commands, 'command')} decided before"
            f" {limits.commands:%Y-%m-%d %H:%M} (UTC)"
            f" {'would be dropped' if dry_run else 'were dropped'}."
        )


def _counted(number: int, name: str) -> str:
    return f"{number} {name}" if number == 1 else f"{number} {name}s"
