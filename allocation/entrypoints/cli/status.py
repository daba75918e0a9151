"""`allocation status`: backlog and queues, outcomes of the last minute, and dead letters."""

import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer
from rich.table import Column, Table

from allocation.entrypoints.cli.terminal import (
    PLAIN,
    age,
    ask_broker,
    ask_database,
    console,
    is_missing,
    misused,
    show_table,
)
from allocation.messaging.command_line import AsJson
from allocation.messaging.telemetry.escaping import escaped

if TYPE_CHECKING:
    from allocation.adapters.sql.partitions import Partition
    from allocation.bootstrap import Dependencies
    from allocation.views import Json, progress

REFRESH = 2.0  # seconds


@dataclass(frozen=True, slots=True)
class Status:
    """Counts of commands, and of messages by queue; None for a queue that is missing.

    `kept` counts all kept commands, which takes long: None while watching.
    """

    figures: "progress.Progress"
    kept: "progress.Decided | None"
    queues: dict[str, int | None]
    dead_letters: dict[str, int | None]
    partitions: "list[Partition]"

    def as_json(self) -> "Json":
        """For programs."""
        shown = asdict(self)
        for each in shown["partitions"]:
            each["since"] = each["since"] and each["since"].isoformat()
        return shown.pop("figures") | shown


def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="Refresh the output on a terminal until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what is pending, what was decided in the last minute, and the number of dead letters."""
    from allocation import bootstrap

    if watch and as_json:
        misused("--watch and --json can't be used together")
    dependencies = bootstrap.build()
    if watch and sys.stdout.isatty():
        _watch(dependencies)
        return
    now = _ask(dependencies, quick=False)
    if as_json:
        console.print_json(data=now.as_json())
    else:
        show_table(_table(now))


def _watch(dependencies: "Dependencies") -> None:
    from rich.console import Console
    from rich.live import Live

    def table() -> Table:
        return _table(_ask(dependencies, quick=True))

    with Live(table(), console=Console(), auto_refresh=False) as live:
        try:
            while True:
                time.sleep(REFRESH)
                live.update(table(), refresh=True)
        except KeyboardInterrupt:  # as it is meant to end
            pass


def _ask(dependencies: "Dependencies", *, quick: bool) -> Status:
    from allocation.adapters.rabbitmq import topology
    from allocation.adapters.sql import partitions
    from allocation.views import progress

    settings = dependencies.settings

    def figures() -> tuple[progress.Progress, progress.Decided | None, list[partitions.Partition]]:
        with dependencies.engine.connect() as connection:
            kept = None if quick else progress.kept(connection)
            known = progress.current(connection, settings.resend_after)
            return known, kept, partitions.holders(connection)

    def depths() -> dict[str, int | None]:
        with dependencies.broker() as connection:
            return {name: topology.depth(connection, name) for name in names}

    now, kept, held = ask_database(settings, figures)
    names = topology.names([each.queue for each in held])
    if is_missing(settings.broker_url):
        queues: dict[str, int | None] = dict.fromkeys(names)
    else:
        queues = ask_broker(settings, depths)
    dead = topology.dead_queues()
    dead_letters = {name: queues.pop(name) for name in list(queues) if name in dead}
    return Status(now, kept, queues, dead_letters, held)


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
    holders = {each.queue: _holder(each) for each in now.partitions}
    for name, depth in now.queues.items():
        _add_queue(table, f"queue {name}", depth, holders.get(name, ""))
    for name, depth in now.dead_letters.items():
        look = "see `allocation dead list`" if depth else ""
        _add_queue(table, f"dead letters {name}", depth, look, is_bad=bool(depth))
    return table


def _add_queue(
    table: Table, name: str, depth: int | None, said: str = "", *, is_bad: bool = False
) -> None:
    shown = "missing" if depth is None else str(depth)
    table.add_row(name, shown, said, style="red" if depth is None or is_bad else None)


def _holder(partition: "Partition") -> str:
    """The worker that decides the commands of the queue, as far as any has said so."""
    return f"decided by {escaped(partition.worker)}" if partition.worker else ""


def _oldest(count: int, seconds: float) -> str:
    return f"the oldest for {age(seconds)}" if count else ""
