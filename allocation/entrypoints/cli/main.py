"""The command line for people: all its commands, and how their exceptions become exit statuses.

The modules of the commands import what only the work needs when a command runs: help and
completion need none of it.
"""

import os
import select
import sys
from collections.abc import Mapping, Sequence
from importlib import metadata
from typing import Annotated, Any

import typer

from allocation.entrypoints.cli import dead, demo, export, keys, setup, up
from allocation.entrypoints.cli.check import check
from allocation.entrypoints.cli.import_batches import import_batches
from allocation.entrypoints.cli.prune import prune
from allocation.entrypoints.cli.replay import replay
from allocation.entrypoints.cli.status import status
from allocation.entrypoints.cli.terminal import BROKEN_OFF, MISUSED, NOBODY_READS, NobodyReads
from allocation.messaging.command_line import Group, Program

RUN = "Run one process"
DESCRIBE = "Describe it"

PANELS: Mapping[str, Sequence[Any]] = {
    "Try it": (demo.demo, up.up),
    "Set it up": (setup.migrate, setup.topology, keys.app),
    RUN: (),
    "Stock in and out": (import_batches, export.app),
    "Look after it": (status, check, replay, prune, dead.app),
    DESCRIBE: (),
}
"""Commands and groups by the panel of the help, in the order of use; `allocation.__main__` adds
those of RUN and DESCRIBE, which are other entry points."""


class _Root(Group):
    """All commands; turns their exceptions into messages and exit statuses."""

    def list_commands(self, _ctx: Any) -> list[str]:
        """By panel, and in each one in the order of PANELS, groups last."""
        panels = list(PANELS)
        place = {
            name: (panels.index(str(each.rich_help_panel)), isinstance(each, Group))  # type: ignore[attr-defined]
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
    help="Allocates stock from batches to order lines, and publishes events for other services.",
    no_args_is_help=True,
)
for _panel, _commands in PANELS.items():
    for _each in _commands:
        if isinstance(_each, typer.Typer):
            app.add_typer(_each, rich_help_panel=_panel)
        else:
            app.command(rich_help_panel=_panel)(_each)


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
