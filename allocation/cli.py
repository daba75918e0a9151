"""The command line for people: an entry for each command, whose module is imported when it runs.

So help and completion are fast: they need only the entries.
"""

import os
import select
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module, metadata
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup
from typer.main import get_command

from allocation.tools.exits import BROKEN_OFF, MISUSED, NOBODY_READS, NobodyReads

_TRY = "Try it"
_SET_UP = "Set it up"
_RUN = "Run one process"
_STOCK = "Stock in and out"
_LOOK_AFTER = "Look after it"
_DESCRIBE = "Describe it"


@dataclass(frozen=True, slots=True)
class Entry:
    """A command or a group: `where` is MODULE:NAME, `summary` the first line of its help."""

    name: str
    panel: str
    where: str
    summary: str


ENTRIES = (
    Entry(
        "demo",
        _TRY,
        "allocation.running:run_demo",
        "Play the whole story on the embedded default, in a temporary folder, and end.",
    ),
    Entry(
        "up",
        _TRY,
        "allocation.running:up",
        "Run everything on this machine: api, worker, relay, inbound, subscribers, flower.",
    ),
    Entry(
        "migrate",
        _SET_UP,
        "allocation.tools.setup:migrate",
        "Bring the database to the schema of this version; safe to run again.",
    ),
    Entry(
        "topology",
        _SET_UP,
        "allocation.tools.setup:declare_topology",
        "Declare every exchange, queue and user at the broker; safe to run again.",
    ),
    Entry("keys", _SET_UP, "allocation.tools.keys:app", "Keys of the HTTP API."),
    Entry("api", _RUN, "allocation.running:api", "Serve the HTTP API."),
    Entry(
        "relay",
        _RUN,
        "allocation.running:run_relay",
        "Send what the outbox holds to the broker, until stopped.",
    ),
    Entry(
        "inbound",
        _RUN,
        "allocation.running:run_inbound",
        "Accept the events of other systems, until stopped.",
    ),
    Entry(
        "import-batches",
        _STOCK,
        "allocation.tools.import_batches:import_batches",
        "Create a batch of each row of a CSV file; running it again changes nothing.",
    ),
    Entry("export", _STOCK, "allocation.tools.export:app", "Batches and order lines as CSV."),
    Entry(
        "status",
        _LOOK_AFTER,
        "allocation.tools.status:status",
        "Show what waits, what was decided in the last minute, and how many dead letters there"
        " are.",
    ),
    Entry(
        "check",
        _LOOK_AFTER,
        "allocation.tools.setup:prove",
        "Prove the books: one line a promise; exit status 1 when one does not hold.",
    ),
    Entry(
        "dead",
        _LOOK_AFTER,
        "allocation.tools.dead:app",
        "Dead letters: what could not be understood or decided, by whichever process.",
    ),
    Entry(
        "replay",
        _LOOK_AFTER,
        "allocation.tools.replay:replay",
        "Send the kept events again to one queue, in order; what took effect there does so once.",
    ),
    Entry(
        "prune",
        _LOOK_AFTER,
        "allocation.tools.prune:prune",
        "Drop sent events and decided commands that are past their time; safe to break off.",
    ),
    Entry(
        "openapi",
        _DESCRIBE,
        "allocation.tools.setup:describe_api",
        "Print the description of the HTTP API: OpenAPI, as JSON.",
    ),
    Entry(
        "asyncapi",
        _DESCRIBE,
        "allocation.tools.setup:describe_messages",
        "Print the description of the messages: AsyncAPI, as JSON.",
    ),
)
"""In the order of use."""


class _PlainFlags:
    """Help that shows no type for an option that takes no value."""

    def get_params(self, ctx: Any) -> list[Any]:
        params: list[Any] = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if getattr(param, "is_flag", False):
                param.metavar = ""
        return params


class _Command(_PlainFlags, TyperCommand):
    pass


class _Group(_PlainFlags, TyperGroup):
    pass


class _Unloaded(TyperCommand):
    """A command that is not imported yet; help and completion need only its entry."""

    def __init__(self, entry: Entry) -> None:
        super().__init__(entry.name, help=entry.summary, rich_help_panel=entry.panel)
        self.entry = entry


class _Root(_Group):
    """All commands; turns their exceptions into messages and exit statuses."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        for entry in ENTRIES:
            self.add_command(_Unloaded(entry))

    def list_commands(self, _ctx: Any) -> list[str]:
        return [entry.name for entry in ENTRIES]

    def resolve_command(self, ctx: Any, args: list[str]) -> tuple[str | None, Any, list[str]]:
        name, command, rest = super().resolve_command(ctx, args)
        return name, loaded(command), rest

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


def loaded(command: Any) -> Any:
    """The command itself, once its module is imported."""
    if not isinstance(command, _Unloaded):
        return command
    module, _, name = command.entry.where.partition(":")
    found = getattr(import_module(module), name)
    alone = typer.Typer(add_completion=False)
    alone.callback()(lambda: None)  # without it, one command would be the whole program
    if isinstance(found, typer.Typer):
        found.info.cls = _Group
        for each in found.registered_commands:
            each.cls = _Command
        alone.add_typer(found, name=command.name)
    else:
        alone.command(command.name, cls=_Command)(found)
    group = get_command(alone)
    assert isinstance(group, TyperGroup), "a program with a callback is a group"
    return group.commands[str(command.name)]


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


app = typer.Typer(
    name="allocation",
    cls=_Root,
    help="Promises each order line stock from a batch, and tells everyone else by messages.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
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


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line, under its name however it was started."""
    app(arguments, prog_name="allocation")


if __name__ == "__main__":
    main()
