"""`allocation dead`: look at dead letters, and decide what becomes of them."""

import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Annotated, Any
from uuid import UUID

import typer
from kombu import Connection
from rich.progress import track

from allocation import bootstrap, handlers
from allocation.adapters import dead_letters, topology
from allocation.adapters.dead_letters import DeadLetter
from allocation.tools.terminal import AsJson, console, fail, print_table, reaching

app = typer.Typer(
    name="dead",
    help="Dead letters: what could not be understood or decided, by whichever process.",
    no_args_is_help=True,
)

Row = dict[str, Any]
Ids = Annotated[list[str] | None, typer.Argument(help="The letters' ids, see `dead list --each`.")]
Queue = Annotated[str | None, typer.Option(help="Only of this dead-letter queue.")]
Reason = Annotated[str | None, typer.Option(help="Only those with this reason.")]
Name = Annotated[str | None, typer.Option(help="Only of this command or event type.")]
All = Annotated[bool, typer.Option("--all", help="Every one of them.")]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which letters are meant: those that match everything that is given."""

    ids: tuple[str, ...] = ()
    queue: str | None = None
    reason: str | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if self.queue is not None and self.queue not in topology.dead_queues():
            known = ", ".join(topology.dead_queues())
            fail(f"{self.queue} is no dead-letter queue; there are {known}")

    @property
    def is_everything(self) -> bool:
        return self == Selection()

    def meets(self, letter: DeadLetter) -> bool:
        return (
            (not self.ids or letter.id in self.ids)
            and self.reason in (None, letter.reason)
            and self.name in (None, letter.name)
        )


@app.command("list")
def show_list(
    queue: Queue = None,
    reason: Reason = None,
    name: Name = None,
    each: Annotated[bool, typer.Option("--each", help="Each letter, not the groups.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show how many there are of each reason, or each of them."""
    selection = Selection((), queue, reason, name)
    rows: list[Row] = []
    groups: dict[tuple[str, ...], Row] = {}
    if each:
        _visit(selection, lambda _, letter: rows.append(_summary(letter)))
    else:
        _visit(selection, lambda _, letter: _count(groups, letter))
        rows = sorted(groups.values(), key=lambda row: row["letters"], reverse=True)
    if as_json:
        console.print_json(json.dumps(rows))
    elif not rows:
        console.print("There are no such dead letters.")
    else:
        print_table(rows)


@app.command()
def show(letter_id: Annotated[str, typer.Argument(metavar="ID", help="Its id.")]) -> None:
    """Show all that is known of one: why, since when, its headers and its body."""
    found: list[DeadLetter] = []
    _visit(Selection((letter_id,)), lambda _, letter: found.append(letter))
    if not found:
        fail(f"no dead letter has the id {letter_id}: `allocation dead list --each` shows them")
    for letter in found:
        for name, value in _summary(letter).items():
            console.print(f"{name}: {value}", markup=False, highlight=False)
        headers = {key: str(value) for key, value in (letter.message.headers or {}).items()}
        traceback = headers.pop("x-traceback", None)
        console.print("headers:", headers, markup=False)
        console.print("body:", letter.message.body, markup=False)
        if traceback:
            console.print(traceback, markup=False, highlight=False)


@app.command()
def replay(
    ids: Ids = None,
    queue: Queue = None,
    reason: Reason = None,
    name: Name = None,
    everything: All = False,
    as_json: AsJson = False,
) -> None:
    """Deliver letters again, as if they came for the first time; what took effect does so once."""
    selection = _chosen(ids, queue, reason, name, everything)
    sources = topology.dead_queues()

    def send_again(connection: Connection, letter: DeadLetter) -> None:
        dead_letters.send_again(connection, sources[letter.queue], letter)

    done = _visit(selection, send_again)
    _report(selection, done, "delivered again", as_json)


@app.command()
def drop(
    ids: Ids = None,
    queue: Queue = None,
    reason: Reason = None,
    name: Name = None,
    everything: All = False,
    yes: Annotated[bool, typer.Option("--yes", help="Don't ask.")] = False,
    as_json: AsJson = False,
) -> None:
    """Throw letters away for good; a command among them counts as rejected from then on."""
    selection = _chosen(ids, queue, reason, name, everything)
    if not yes:
        typer.confirm("They can't be brought back. Drop them?", abort=True)
    done = _visit(selection, _drop)
    _report(selection, done, "dropped", as_json)


def _drop(_: Connection, letter: DeadLetter) -> None:
    if letter.queue == topology.DEAD and (command_id := _uuid(letter.id)):
        reaching("the database", lambda: handlers.drop(command_id, bootstrap.unit_of_work()))
    letter.message.ack()


def _chosen(
    ids: list[str] | None, queue: str | None, reason: str | None, name: str | None, everything: bool
) -> Selection:
    selection = Selection(tuple(ids or ()), queue, reason, name)
    if selection.is_everything and not everything:
        fail("say which: ids, --queue, --reason, --name, or --all")
    return selection


def _visit(selection: Selection, do: Callable[[Connection, DeadLetter], None]) -> int:
    """Do it to each selected letter, oldest first; how many there were."""
    return reaching("the broker", lambda: sum(1 for _ in _visiting(selection, do)))


def _visiting(
    selection: Selection, do: Callable[[Connection, DeadLetter], None]
) -> Iterator[DeadLetter]:
    with bootstrap.confirming_broker() as connection:
        for queue in [selection.queue] if selection.queue else topology.dead_queues():
            waiting = topology.depth(connection, queue)
            if waiting is None:
                fail(f"the queue {queue} is missing: run `allocation topology`")
            for letter in track(
                dead_letters.taken(connection, queue, waiting),
                description=queue,
                total=waiting,
                transient=True,
                disable=not sys.stderr.isatty() or not waiting,
            ):
                if selection.meets(letter):
                    do(connection, letter)
                    yield letter


def _report(selection: Selection, done: int, what: str, as_json: bool) -> None:
    if as_json:
        console.print_json(json.dumps({what.replace(" ", "_"): done}))
    elif done:
        console.print(f"{done} dead {'letter was' if done == 1 else 'letters were'} {what}.")
    if not done and not selection.is_everything:
        fail("no dead letter matches: `allocation dead list --each` shows them")
    if not done and not as_json:
        console.print("There are no dead letters.")


def _count(groups: dict[tuple[str, ...], Row], letter: DeadLetter) -> None:
    key = (letter.queue, letter.reason, letter.name, letter.kind)
    group = groups.setdefault(
        key,
        dict(zip(("queue", "reason", "name", "kind"), key, strict=True))
        | {"letters": 0, "first": letter.first, "last": letter.last},
    )
    group["letters"] += 1
    group["first"] = min(filter(None, (group["first"], letter.first)), default=None)
    group["last"] = max(filter(None, (group["last"], letter.last)), default=None)


def _summary(letter: DeadLetter) -> Row:
    return {
        field.name: getattr(letter, field.name)
        for field in fields(letter)
        if field.name != "message"
    }


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
