"""`allocation dead`: look at dead letters, and decide what becomes of them."""

import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Annotated, Any
from uuid import UUID

import typer
from rich.text import Text

from allocation.entrypoints.cli.terminal import (
    T,
    age,
    ask_broker,
    ask_database,
    console,
    counted,
    fail,
    misused,
    print_answer,
    print_table,
)
from allocation.messaging.command_line import AsJson, Program
from allocation.messaging.telemetry.escaping import escaped

if TYPE_CHECKING:
    from kombu import Connection

    from allocation.adapters.rabbitmq.dead_letter_queues import Selection
    from allocation.bootstrap import Dependencies
    from allocation.messaging.dead_letters import DeadLetter

app = Program(
    name="dead",
    help="Dead letters: messages that a process could not read or decide.",
    no_args_is_help=True,
)


def _dead_queues() -> list[str]:
    from allocation.adapters.rabbitmq import topology

    return list(topology.dead_queues())


Ids = Annotated[
    list[str] | None, typer.Argument(help="Ids of dead letters, see `dead list --each`.")
]
DeadQueue = Annotated[
    str | None,
    typer.Option("--queue", help="Only dead letters of this queue.", autocompletion=_dead_queues),
]
Reason = Annotated[str | None, typer.Option(help="Only dead letters with this reason.")]
Name = Annotated[str | None, typer.Option(help="Only this command or event type.")]
All = Annotated[bool, typer.Option("--all", help="All dead letters.")]
Row = dict[str, Any]


@app.command("list")
def show_list(
    queue: DeadQueue = None,
    reason: Reason = None,
    name: Name = None,
    each: Annotated[
        bool, typer.Option("--each", help="List each dead letter instead of groups.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Show the number of dead letters for each reason, or each dead letter."""
    from allocation import bootstrap
    from allocation.adapters.rabbitmq.dead_letter_queues import by_cause, summary

    def rows_of(_: object, letters: "Iterator[DeadLetter]") -> list[Row]:
        return [summary(letter) for letter in letters] if each else by_cause(letters)

    rows = _among(bootstrap.build(), _selection(None, queue, reason, name), rows_of)
    if as_json:
        console.print_json(data=rows)
    elif not rows:
        console.print("There are no such dead letters.")
    else:
        _print_tables(rows, each=each)


def _print_tables(rows: list[Row], *, each: bool) -> None:
    """Tables that fit a terminal, one a queue or a reason; `dead show` prints the rest."""

    def heading(row: Row) -> str:
        return f"{row['queue']}: {row['reason']}" if each else row["queue"]

    for text, under in groupby(sorted(rows, key=heading), heading):
        console.print(Text(escaped(text), style="bold"))
        print_table([_for_people(row) for row in under], whole=("id", "age", "oldest", "newest"))


def _for_people(row: Row) -> Row:
    first, last = _ago(row["first"] or row["last"]), _ago(row["last"])
    if "letters" in row:
        shown = {name: row[name] for name in ("reason", "name", "letters")}
        return shown | {"oldest": first, "newest": last}
    return {name: row[name] for name in ("id", "name")} | {"age": first}


def _ago(moment: object) -> str:
    """How long ago it was, or the text itself if it is no time: other systems wrote it."""
    try:
        then = datetime.fromisoformat(str(moment))
    except ValueError:
        return "" if moment is None else str(moment)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return age(max(0.0, (datetime.now(UTC) - then).total_seconds()))


@app.command()
def show(
    letter_id: Annotated[str, typer.Argument(metavar="ID", help="The dead letter's id.")],
    as_json: AsJson = False,
) -> None:
    """Show one dead letter: its reason, its time, its headers and its body."""
    from allocation import bootstrap
    from allocation.adapters.rabbitmq.dead_letter_queues import summary

    found = _among(bootstrap.build(), _selection([letter_id]), lambda _, letters: list(letters))
    if not found:
        known = "`allocation dead list --each` shows them"
        fail(f"no dead letter has the id {escaped(letter_id)}: {known}")
    if as_json:
        console.print_json(data=[summary(letter) | _content(letter) for letter in found])
        return
    for letter in found:
        for name, value in summary(letter).items():
            console.print(escaped(f"{name}: {value}"), markup=False, highlight=False)
        headers = _content(letter)["headers"]
        traceback = headers.pop("x-traceback", None)
        # As a dict, whose repr escapes them.
        console.print("headers:", headers, markup=False)
        body = letter.message.body
        # Not by rich, which takes half a minute for one line of 256 KiB.
        typer.echo(f"body: {escaped(body, lines=True) if isinstance(body, str) else bytes(body)!r}")
        if traceback:
            console.print(escaped(traceback, lines=True), markup=False, highlight=False)


def _content(letter: "DeadLetter") -> Row:
    body = letter.message.body
    if isinstance(body, bytes):
        body = body.decode(errors="backslashreplace")
    headers = {key: str(value) for key, value in (letter.message.headers or {}).items()}
    return {"headers": headers, "body": body}


@app.command()
def replay(
    ids: Ids = None,
    queue: DeadQueue = None,
    reason: Reason = None,
    name: Name = None,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Deliver dead letters again; a message that took effect before has no second effect.

    A dead letter whose body was cut stays in its queue.
    """
    from allocation import bootstrap
    from allocation.adapters.rabbitmq.dead_letter_queues import deliver_again
    from allocation.messaging.dead_letters import Incomplete

    selection = _selection(ids, queue, reason, name, everything=everything)
    refused: list[str] = []

    def deliver(connection: "Connection", letters: "Iterator[DeadLetter]") -> int:
        done = 0
        for letter in letters:
            try:
                deliver_again(connection, letter)
                done += 1
            except Incomplete as error:
                refused.append(str(error))
        return done

    done = _among(bootstrap.build(), selection, deliver)
    if done or not refused:
        _report(selection, done, "delivered again", as_json)
    if refused:
        fail("\n".join(refused))


@app.command()
def drop(
    ids: Ids = None,
    queue: DeadQueue = None,
    reason: Reason = None,
    name: Name = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask for confirmation.")] = False,
    as_json: AsJson = False,
) -> None:
    """Delete dead letters for good; a command among them counts as rejected from then on."""
    from allocation import bootstrap
    from allocation.adapters.rabbitmq import topology
    from allocation.service_layer import execution

    selection = _selection(ids, queue, reason, name, everything=everything)
    if not yes:
        typer.confirm("Dropped messages can't be restored. Drop them?", abort=True)
    dependencies = bootstrap.build()

    def drop(_: object, letters: "Iterator[DeadLetter]") -> int:
        done = 0
        for letter in letters:
            if letter.queue == topology.DEAD and (command_id := _uuid(letter.id)):
                unit_of_work = dependencies.unit_of_work()
                ask_database(
                    dependencies.settings, partial(execution.drop, command_id, unit_of_work)
                )
            letter.message.ack()
            done += 1
        return done

    _report(selection, _among(dependencies, selection, drop), "dropped", as_json)


def _selection(
    ids: list[str] | None = None,
    queue: str | None = None,
    reason: str | None = None,
    name: str | None = None,
    *,
    everything: bool = True,
) -> "Selection":
    """The selection; it may be that of all dead letters only if `everything`."""
    from allocation.adapters.rabbitmq.dead_letter_queues import NoSuchQueue, Selection

    try:
        selection = Selection(tuple(ids or ()), queue, reason, name)
    except NoSuchQueue as error:
        misused(str(error))
    if selection.is_everything and not everything:
        misused("choose dead letters by ids, --queue, --reason, --name, or --all")
    return selection


def _among(
    dependencies: "Dependencies",
    selection: "Selection",
    do: "Callable[[Connection, Iterator[DeadLetter]], T]",
) -> T:
    """Return what `do` returns for the selected letters; a terminal shows the progress."""
    from allocation.adapters.rabbitmq.dead_letter_queues import NoSuchQueue, selected

    def reach() -> T:
        with dependencies.confirming_broker() as connection:
            return do(connection, selected(connection, selection, _tracked))

    try:
        return ask_broker(dependencies.settings, reach)
    except NoSuchQueue as error:
        fail(str(error))


def _tracked(letters: "Iterator[DeadLetter]", queue: str, waiting: int) -> "Iterable[DeadLetter]":
    from rich.console import Console
    from rich.progress import track

    return track(
        letters,
        description=queue,
        total=waiting,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty() or not waiting,
    )


def _report(selection: "Selection", done: int, what: str, as_json: bool) -> None:
    letters = counted(done, "dead letter was", "dead letters were")
    if done or as_json:
        print_answer(f"{letters} {what}.", {what.replace(" ", "_"): done}, as_json=as_json)
    if not done and not selection.is_everything:
        fail("no dead letter matches: `allocation dead list --each` shows them")
    if not done and not as_json:
        console.print("There are no dead letters.")


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
