"""`allocation dead`: look at dead letters, and decide what becomes of them."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from itertools import groupby
from typing import TypeVar
from uuid import UUID

import typer
from kombu import Connection
from rich.console import Console
from rich.progress import track
from rich.text import Text

from allocation import bootstrap
from allocation.adapters.rabbitmq import topology
from allocation.adapters.rabbitmq.dead_letter_queues import (
    NoSuchQueue,
    Row,
    Selection,
    by_cause,
    deliver_again,
    selected,
    summary,
)
from allocation.entrypoints.cli.terminal import age, console, fail, misused, print_table, reaching
from allocation.messaging.dead_letters import DeadLetter, Incomplete
from allocation.messaging.telemetry.escaping import escaped
from allocation.service_layer import execution

T = TypeVar("T")


def show_list(
    queue: str | None, reason: str | None, name: str | None, *, each: bool, as_json: bool
) -> None:
    """Show how many there are of each reason, or each of them."""
    selection = _selection((), queue, reason, name)

    def rows_of(letters: Iterator[DeadLetter]) -> list[Row]:
        return [summary(letter) for letter in letters] if each else by_cause(letters)

    rows = _among(selection, lambda _, letters: rows_of(letters))
    if as_json:
        console.print_json(json.dumps(rows))
    elif not rows:
        console.print("There are no such dead letters.")
    else:
        _print_tables(rows, each=each)


def _print_tables(rows: list[Row], *, each: bool) -> None:
    """Tables that fit a terminal, one a queue or a reason; the rest is told by `dead show`."""

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
    """How long ago it was; strangers may have written anything there."""
    try:
        then = datetime.fromisoformat(str(moment))
    except ValueError:
        return "" if moment is None else str(moment)
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return age(max(0.0, (datetime.now(UTC) - then).total_seconds()))


def show(letter_id: str, *, as_json: bool) -> None:
    """Show all that is known of one: why, since when, its headers and its body."""
    found = _among(_selection((letter_id,)), lambda _, letters: list(letters))
    if not found:
        known = "`allocation dead list --each` shows them"
        fail(f"no dead letter has the id {escaped(letter_id)}: {known}")
    if as_json:
        console.print_json(json.dumps([_whole(letter) for letter in found]))
        return
    for letter in found:
        for name, value in summary(letter).items():
            console.print(escaped(f"{name}: {value}"), markup=False, highlight=False)
        headers = {key: str(value) for key, value in (letter.message.headers or {}).items()}
        traceback = headers.pop("x-traceback", None)
        # As a dict, whose repr escapes them.
        console.print("headers:", headers, markup=False)
        body = letter.message.body
        # Not by rich, which takes half a minute for one line of 256 KiB.
        typer.echo(f"body: {escaped(body, lines=True) if isinstance(body, str) else bytes(body)!r}")
        if traceback:
            console.print(escaped(traceback, lines=True), markup=False, highlight=False)


def _whole(letter: DeadLetter) -> Row:
    body = letter.message.body
    if isinstance(body, bytes):
        body = body.decode(errors="backslashreplace")
    headers = {key: str(value) for key, value in (letter.message.headers or {}).items()}
    return summary(letter) | {"headers": headers, "body": body}


def replay(
    ids: list[str] | None,
    queue: str | None,
    reason: str | None,
    name: str | None,
    *,
    everything: bool,
    as_json: bool,
) -> None:
    """Deliver letters again, as if they came for the first time; what took effect does so once.

    A dead letter whose body was cut stays in its queue.
    """
    selection = _chosen(ids, queue, reason, name, everything)
    refused: list[str] = []

    def deliver(connection: Connection, letter: DeadLetter) -> bool:
        try:
            deliver_again(connection, letter)
        except Incomplete as error:
            refused.append(str(error))
            return False
        return True

    done = _visit(selection, deliver)
    if done or not refused:
        _report(selection, done, "delivered again", as_json)
    if refused:
        fail("\n".join(refused))


def drop(
    ids: list[str] | None,
    queue: str | None,
    reason: str | None,
    name: str | None,
    *,
    everything: bool,
    yes: bool,
    as_json: bool,
) -> None:
    """Throw letters away for good; a command among them counts as rejected from then on."""
    selection = _chosen(ids, queue, reason, name, everything)
    if not yes:
        typer.confirm("They can't be brought back. Drop them?", abort=True)
    done = _visit(selection, _drop)
    _report(selection, done, "dropped", as_json)


def _drop(_: Connection, letter: DeadLetter) -> bool:
    if letter.queue == topology.DEAD and (command_id := _uuid(letter.id)):
        reaching("the database", lambda: execution.drop(command_id, bootstrap.unit_of_work()))
    letter.message.ack()
    return True


def _chosen(
    ids: list[str] | None, queue: str | None, reason: str | None, name: str | None, everything: bool
) -> Selection:
    selection = _selection(tuple(ids or ()), queue, reason, name)
    if selection.is_everything and not everything:
        misused("say which: ids, --queue, --reason, --name, or --all")
    return selection


def _selection(ids: tuple[str, ...], *rest: str | None) -> Selection:
    try:
        return Selection(ids, *rest)
    except NoSuchQueue as error:
        misused(str(error))


def _visit(selection: Selection, do: Callable[[Connection, DeadLetter], bool]) -> int:
    """Call `do` with each selected dead letter, oldest first; how often it returned True."""
    return _among(
        selection,
        lambda connection, letters: sum(do(connection, letter) for letter in letters),
    )


def _among(selection: Selection, do: Callable[[Connection, Iterator[DeadLetter]], T]) -> T:
    """What `do` makes of the selected letters, of which a terminal sees the progress."""

    def reach() -> T:
        with bootstrap.confirming_broker() as connection:
            return do(connection, selected(connection, selection, _tracked))

    try:
        return reaching("the broker", reach)
    except NoSuchQueue as error:
        fail(str(error))


def _tracked(letters: Iterator[DeadLetter], queue: str, waiting: int) -> Iterable[DeadLetter]:
    return track(
        letters,
        description=queue,
        total=waiting,
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty() or not waiting,
    )


def _report(selection: Selection, done: int, what: str, as_json: bool) -> None:
    if as_json:
        console.print_json(json.dumps({what.replace(" ", "_"): done}))
    elif done:
        console.print(f"{done} dead {'letter was' if done == 1 else 'letters were'} {what}.")
    if not done and not selection.is_everything:
        fail("no dead letter matches: `allocation dead list --each` shows them")
    if not done and not as_json:
        console.print("There are no dead letters.")


def _uuid(text: str) -> UUID | None:
    try:
        return UUID(text)
    except ValueError:
        return None
