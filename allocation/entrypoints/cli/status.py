"""`allocation status`: what waits where, what was decided lately, and what nobody could decide."""

import json
import sys
import time
from dataclasses import asdict, dataclass

from rich.console import Console
from rich.live import Live
from rich.table import Column, Table
from sqlalchemy import Connection

from allocation import bootstrap
from allocation.adapters.rabbitmq import topology
from allocation.entrypoints.cli.terminal import (
    PLAIN,
    age,
    console,
    is_missing,
    misused,
    reaching,
    show_table,
)
from allocation.views import Json, progress

REFRESH = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Status:
    """The figures, those of all kept commands unless it is to be quick, and messages by queue."""

    figures: progress.Progress
    kept: progress.Decided | None
    queues: dict[str, int | None]

    def as_json(self) -> Json:
        """For programs: a queue that is missing is null."""
        made = asdict(self.figures)
        dead = topology.dead_queues()
        return made | {
            "kept": asdict(self.kept) if self.kept else None,
            "queues": {name: depth for name, depth in self.queues.items() if name not in dead},
            "dead_letters": {name: depth for name, depth in self.queues.items() if name in dead},
        }


def status(*, watch: bool, as_json: bool) -> None:
    """Show what waits, what was decided in the last minute, and how many dead letters there are."""
    if watch and as_json:
        misused("--watch is for people, --json for programs: give one of them")
    if watch and sys.stdout.isatty():
        _watch()
        return
    now = _ask(quick=False)
    if as_json:
        console.print_json(json.dumps(now.as_json()))
    else:
        show_table(_table(now))


def _watch() -> None:
    with Live(_table(_ask(quick=True)), console=Console(), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(REFRESH)
                live.update(_table(_ask(quick=True)), refresh=True)
        except KeyboardInterrupt:  # as it is meant to end
            pass


def _ask(*, quick: bool) -> Status:
    def ask_database() -> tuple[progress.Progress, progress.Decided | None]:
        settings = bootstrap.settings()
        with bootstrap.engine(settings.database_url).connect() as connection:
            figures = progress.current(connection, settings.resend_after)
            return figures, _kept(connection, quick)

    def ask_broker() -> dict[str, int | None]:
        with bootstrap.broker() as connection:
            return {name: topology.depth(connection, name) for name in topology.names()}

    figures, kept = reaching("the database", ask_database)
    if is_missing("the broker"):
        return Status(figures, kept, dict.fromkeys(topology.names()))
    return Status(figures, kept, reaching("the broker", ask_broker))


def _kept(connection: Connection, quick: bool) -> progress.Decided | None:
    return None if quick else progress.kept(connection)


def _table(now: Status) -> Table:
    table = Table(Column("what", no_wrap=True), "how many", "", **PLAIN)
    backlog, minute = now.figures.backlog, now.figures.last_minute
    pending = _oldest(backlog.pending, backlog.oldest_pending_seconds)
    table.add_row("commands pending", str(backlog.pending), pending)
    table.add_row("follow-ups pending", str(backlog.follow_ups))
    table.add_row(
        "overdue of these",
        str(backlog.overdue),
        "see `allocation check`" if backlog.overdue else "",
        style="red" if backlog.overdue else None,
    )
    table.add_row(
        "commands decided in the last minute", str(minute.all), f"{minute.all / 60:.1f} a second"
    )
    for name in ("succeeded", "rejected", "failed"):
        kept = f"{getattr(now.kept, name)} of all that are kept" if now.kept else ""
        table.add_row(f"  {name}", str(getattr(minute, name)), kept)
    unsent = _oldest(backlog.unsent, backlog.oldest_unsent_seconds)
    table.add_row("outbox rows unsent", str(backlog.unsent), unsent)
    table.add_row("order lines waiting", str(backlog.waiting_lines))
    dead = topology.dead_queues()
    for name in sorted(now.queues, key=lambda name: name in dead):
        kind = "dead letters" if name in dead else "queue"
        depth = now.queues[name]
        table.add_row(
            f"{kind} {name}",
            "missing" if depth is None else str(depth),
            "see `allocation dead list`" if depth and name in dead else "",
            style="red" if depth is None or (depth and name in dead) else None,
        )
    return table


def _oldest(count: int, seconds: float) -> str:
    return f"the oldest for {age(seconds)}" if count else ""
