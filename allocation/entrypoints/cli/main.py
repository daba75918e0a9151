"""The command line for people: what each command takes, and what its help says.

A command imports the module that does its work when it runs. Help and completion need none of them.
"""

import os
import select
import sys
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import typer

from allocation.entrypoints.cli.choices import DateOrder, Scope
from allocation.entrypoints.cli.exits import BROKEN_OFF, MISUSED, NOBODY_READS, NobodyReads
from allocation.messaging.command_line import AsJson, DryRun, Group, Program

_TRY = "Try it"
_SET_UP = "Set it up"
RUN = "Run one process"
_STOCK = "Stock in and out"
_LOOK_AFTER = "Look after it"
DESCRIBE = "Describe it"
_PANELS = (_TRY, _SET_UP, RUN, _STOCK, _LOOK_AFTER, DESCRIBE)
"""In the order of use."""


class _Root(Group):
    """All commands; turns their exceptions into messages and exit statuses."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """By panel, and in each one in the order of this module, groups last."""
        place = {
            name: (_PANELS.index(str(each.rich_help_panel)), isinstance(each, Group))  # type: ignore[attr-defined]
            for name, each in self.commands.items()
        }
        return sorted(self.commands, key=lambda name: place[name])

    def invoke(self, ctx: Any) -> Any:
        try:
            done = super().invoke(ctx)
            sys.stdout.flush()  # at exit it would be too late for the exit status
        except (BrokenPipeError, NobodyReads):
            if not _nobody_reads():
                raise
            # Discard what is still in its buffer.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            raise typer.Exit(NOBODY_READS) from None
        except KeyboardInterrupt:
            raise typer.Exit(BROKEN_OFF) from None
        except ValueError as error:
            _fail_by_setting(error)
            raise
        return done


def _nobody_reads() -> bool:
    """Whether standard output is a closed pipe; the error may be of a connection instead."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    return any(what & select.POLLERR for _, what in poller.poll(0))


def _fail_by_setting(error: ValueError) -> None:
    """If the error is about settings, exit with one sentence for each that can't be used."""
    from pydantic import ValidationError

    if not isinstance(error, ValidationError) or error.title != "Settings":
        return
    for problem in error.errors():
        variable = "ALLOCATION_" + "_".join(str(part) for part in problem["loc"]).upper()
        typer.echo(f"allocation: {variable}: {problem['msg']}", err=True)
    raise typer.Exit(MISUSED) from error


app = Program(
    name="allocation",
    cls=_Root,
    add_completion=True,
    help="Promises each order line stock from a batch, and tells everyone else by messages.",
    no_args_is_help=True,
)


def _group(name: str, panel: str, summary: str) -> typer.Typer:
    group = Program(name=name, help=summary, no_args_is_help=True)
    app.add_typer(group, rich_help_panel=panel)
    return group


keys = _group("keys", _SET_UP, "Keys of the HTTP API.")
export = _group("export", _STOCK, "Batches and order lines as CSV.")
dead = _group(
    "dead",
    _LOOK_AFTER,
    "Dead letters: what could not be understood or decided, by whichever process.",
)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"allocation {metadata.version('allocation')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Show the version and exit.", callback=_print_version, is_eager=True
        ),
    ] = False,
) -> None:
    pass


@app.command(rich_help_panel=_TRY)
def demo() -> None:
    """Play the whole story on the embedded default, in a temporary folder, and end."""
    from allocation.entrypoints.cli import processes

    processes.run_demo()


@app.command(rich_help_panel=_TRY)
def up() -> None:
    """Run everything on this machine: api, worker, relay, inbound, subscribers, flower.

    It ends with exit status 0 on Ctrl-C, SIGTERM, or when its output is closed; with 1 when a
    process stops by itself, or a port or the state folder is in use.
    """
    from allocation.entrypoints.cli import processes

    processes.up()


@app.command(rich_help_panel=_SET_UP)
def migrate(as_json: AsJson = False) -> None:
    """Bring the database to the schema of this version; safe to run again."""
    from allocation.entrypoints.cli import setup

    setup.migrate(as_json=as_json)


@app.command(rich_help_panel=_SET_UP)
def topology(as_json: AsJson = False) -> None:
    """Declare every exchange, queue and user at the broker; safe to run again."""
    from allocation.entrypoints.cli import setup

    setup.declare_topology(as_json=as_json)


@keys.command("create")
def _create_key(
    name: Annotated[str, typer.Argument(help="Who gets it, for the list; up to 100 characters.")],
    scope: Annotated[
        list[Scope] | None,
        typer.Option(help="read: GET requests; write: all others. Both unless given."),
    ] = None,
    yes: Annotated[
        bool, typer.Option("--yes", "-y", help="Do not ask whether to make the first key.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Make a key, and print it: this once, as only its hash is kept.

    With the first key the API on loopback begins to ask every caller for a key.
    """
    from allocation.entrypoints.cli import keys

    keys.create(name, scope or list(Scope), yes=yes, as_json=as_json)


@keys.command("list")
def _list_keys(as_json: AsJson = False) -> None:
    """Show every key, but for its secret."""
    from allocation.entrypoints.cli import keys

    keys.show_list(as_json=as_json)


@keys.command("revoke")
def _revoke_key(
    key_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    as_json: AsJson = False,
) -> None:
    """Take a key back; within seconds no process of the API accepts it any more."""
    from allocation.entrypoints.cli import keys

    keys.revoke(key_id, as_json=as_json)


@app.command(rich_help_panel=_STOCK)
def import_batches(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv",
            help="With the columns batchref, sku, qty and perhaps eta and best_before;"
            " - reads standard input.",
        ),
    ],
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Stop when for so long nothing moved: no room, no outcome.",
        ),
    ] = 60,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Only hand over, wait for no outcome.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only look for rows that are wrong.")
    ] = False,
    rejected: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Write the rejected rows there, to be corrected and imported."
        ),
    ] = None,
    dates: Annotated[
        DateOrder | None,
        typer.Option(help="Read local dates too: 31.12.2026 or 31/12/2026, or 12/31/2026."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a batch of each row of a CSV file; running it again changes nothing.

    Exit status: 0 when every batch is there, 1 when some are rejected or undecided, 2 when the
    file can't be read.
    """
    from allocation.entrypoints.cli import import_batches

    import_batches.import_batches(
        file,
        wait=wait,
        no_wait=no_wait,
        dry_run=dry_run,
        rejected=rejected,
        dates=dates,
        as_json=as_json,
    )


Output = Annotated[
    Path | None,
    typer.Option(
        "--output", "-o", metavar="FILE", help="Write there, all or nothing; else standard output."
    ),
]
OfSku = Annotated[str | None, typer.Option("--sku", help="Only those of this product.")]


@export.command("batches")
def _export_batches(
    output: Output = None, sku: OfSku = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Every batch, as `allocation import-batches` reads it; those of quantity 0 are left out."""
    from allocation.entrypoints.cli import export

    export.batches(output, sku, dry_run=dry_run, as_json=as_json)


@export.command("lines")
def _export_lines(
    output: Output = None, sku: OfSku = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Every order line, how it stands, and the batch that serves it."""
    from allocation.entrypoints.cli import export

    export.lines(output, sku, dry_run=dry_run, as_json=as_json)


@app.command(rich_help_panel=_LOOK_AFTER)
def status(
    watch: Annotated[
        bool, typer.Option("--watch", "-w", help="On a terminal: show it anew, until Ctrl-C.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show what waits, what was decided in the last minute, and how many dead letters there are."""
    from allocation.entrypoints.cli import status

    status.status(watch=watch, as_json=as_json)


@app.command(rich_help_panel=_LOOK_AFTER)
def check(as_json: AsJson = False) -> None:
    """Prove the books: one line a promise; exit status 1 when one does not hold."""
    from allocation.entrypoints.cli import setup

    setup.prove(as_json=as_json)


def _dead_queues() -> list[str]:
    from allocation.adapters.rabbitmq import topology

    return list(topology.dead_queues())


def _subscribers() -> list[str]:
    from allocation.adapters.rabbitmq import topology

    return list(topology.SUBSCRIBERS)


Ids = Annotated[list[str] | None, typer.Argument(help="The letters' ids, see `dead list --each`.")]
DeadQueue = Annotated[
    str | None,
    typer.Option("--queue", help="Only of this dead-letter queue.", autocompletion=_dead_queues),
]
Reason = Annotated[str | None, typer.Option(help="Only those with this reason.")]
Name = Annotated[str | None, typer.Option(help="Only of this command or event type.")]
All = Annotated[bool, typer.Option("--all", help="Every one of them.")]


@dead.command("list")
def _list_dead(
    queue: DeadQueue = None,
    reason: Reason = None,
    name: Name = None,
    each: Annotated[bool, typer.Option("--each", help="Each letter, not the groups.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how many there are of each reason, or each of them."""
    from allocation.entrypoints.cli import dead

    dead.show_list(queue, reason, name, each=each, as_json=as_json)


@dead.command("show")
def _show_dead(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")],
    as_json: AsJson = False,
) -> None:
    """Show all that is known of one: why, since when, its headers and its body."""
    from allocation.entrypoints.cli import dead

    dead.show(letter_id, as_json=as_json)


@dead.command("replay")
def _replay_dead(
    ids: Ids = None,
    queue: DeadQueue = None,
    reason: Reason = None,
    name: Name = None,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Deliver letters again, as if they came for the first time; what took effect does so once.

    A letter whose body was cut stays where it is.
    """
    from allocation.entrypoints.cli import dead

    dead.replay(ids, queue, reason, name, everything=everything, as_json=as_json)


@dead.command("drop")
def _drop_dead(
    ids: Ids = None,
    queue: DeadQueue = None,
    reason: Reason = None,
    name: Name = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Throw letters away for good; a command among them counts as rejected from then on."""
    from allocation.entrypoints.cli import dead

    dead.drop(ids, queue, reason, name, everything=everything, yes=yes, as_json=as_json)


@app.command(rich_help_panel=_LOOK_AFTER)
def replay(
    queue: Annotated[
        str,
        typer.Option(
            help="The subscriber's queue, such as warehouse.events.", autocompletion=_subscribers
        ),
    ],
    since: Annotated[
        str | None, typer.Option(help="Only from this time on: 2030-01-31T12:00, UTC.")
    ] = None,
    sku: Annotated[str | None, typer.Option(help="Only the events of this product.")] = None,
    as_json: AsJson = False,
) -> None:
    """Send the kept events again to one queue, in order; what took effect there does so once."""
    from allocation.entrypoints.cli import replay

    replay.replay(queue, since, sku, as_json=as_json)


@app.command(rich_help_panel=_LOOK_AFTER)
def prune(dry_run: DryRun = False, as_json: AsJson = False) -> None:
    """Drop sent events and decided commands that are past their time; safe to break off."""
    from allocation.entrypoints.cli import prune

    prune.prune(dry_run=dry_run, as_json=as_json)
