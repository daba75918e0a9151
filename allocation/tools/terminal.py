"""How every command talks to people: sentences, tables, JSON on request, one line on failure."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Annotated, NoReturn, TypeVar

import typer
from amqp.exceptions import AMQPError
from kombu.exceptions import OperationalError as BrokerError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Column, Table
from rich.text import Text
from sqlalchemy.exc import SQLAlchemyError

from allocation import bootstrap
from allocation.adapters.broker import without_password

T = TypeVar("T")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

console = Console(soft_wrap=True)
_NO_LIMIT = 100_000  # characters


def print_table(rows: Sequence[Mapping[str, object]]) -> None:
    """The rows under the names of the first one's fields; in a pipe nothing is cut to a width."""
    table = Table(*(Column(name, overflow="fold") for name in rows[0]), box=None)
    for row in rows:
        # Text takes no markup: what strangers sent may have brackets.
        table.add_row(*(Text("" if cell is None else str(cell)) for cell in row.values()))
    Console(soft_wrap=True, width=None if sys.stdout.isatty() else _NO_LIMIT).print(table)


@contextmanager
def progress(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, nothing elsewhere; call what it gives with each number that is done."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn())
    with Progress(
        *columns,
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        transient=True,
        disable=quiet or not sys.stdout.isatty() or not total,
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda done: bar.advance(task, done)


def reaching(what: str, ask: Callable[[], T]) -> T:
    """Ask `the database` or `the broker`, or end with the sentence why it gave no answer."""
    try:
        return ask()
    except (SQLAlchemyError, BrokerError, OSError, AMQPError) as error:
        settings = bootstrap.settings()
        url = settings.database_url if what == "the database" else settings.broker_url
        reason = str(getattr(error, "orig", error)).strip()
        fail(f"{what} at {without_password(url)} gave no answer: {reason}")


def fail(sentence: str) -> NoReturn:
    """End with exit status 1, saying what happened, to what, and what to do."""
    typer.echo(f"allocation: {sentence}", err=True)
    raise typer.Exit(1)
