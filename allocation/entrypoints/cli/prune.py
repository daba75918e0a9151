"""`allocation prune`: drop the events and commands that are past their time."""

from dataclasses import asdict
from datetime import UTC, datetime, timedelta

from allocation.entrypoints.cli.terminal import ask_database, counted, print_answer, progress
from allocation.messaging.command_line import AsJson, DryRun


def prune(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Delete published events and decided commands after their retention; safe to interrupt."""
    from allocation import bootstrap
    from allocation.adapters.sql import retention
    from allocation.messaging.retention import half_the_time

    dependencies = bootstrap.build()
    settings, engine = dependencies.settings, dependencies.engine
    now = datetime.now(UTC)
    limits = retention.Limits(
        events=now - timedelta(days=settings.keep_events),
        commands=now - timedelta(days=settings.keep_commands),
    )
    found = ask_database(settings, lambda: retention.past(engine, limits))
    dropped = retention.Number()
    if not dry_run:
        steps = half_the_time(retention.drop(engine, limits))
        with progress("pruning", found.events + found.commands, quiet=as_json) as advance:
            while step := ask_database(settings, lambda: next(steps, None)):
                dropped += step
                advance(step.events + step.commands)
    shown = found if dry_run else dropped
    print_answer(
        f"{counted(shown.events, 'event')} sent before {limits.events:%Y-%m-%d %H:%M} and"
        f" {counted(shown.commands, 'command')} decided before"
        f" {limits.commands:%Y-%m-%d %H:%M} (UTC)"
        f" {'would be dropped' if dry_run else 'were dropped'}.",
        {"dry_run": dry_run} | asdict(shown),
        as_json=as_json,
    )
