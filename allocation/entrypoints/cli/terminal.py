"""How every command talks to people: sentences, tables, JSON on request, one line on failure."""

import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar
from urllib.parse import unquote

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Column, Table
from rich.text import Text

from allocation.messaging.telemetry.escaping import escaped

if TYPE_CHECKING:
    from allocation.settings import Settings

T = TypeVar("T")

FAILED = 1
"""Exit status of a command that failed, or found what does not hold."""
MISUSED = 2
BROKEN_OFF = 130
"""After Ctrl-C."""
NOBODY_READS = 141
"""Standard output was closed; as of a process that SIGPIPE ended."""


class NobodyReads(Exception):
    """Standard output is a closed pipe. Not an OSError: neither database nor broker is at fault."""


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Rich would exit here; `main` sets the exit status."""
        raise NobodyReads

    def print_json(self, *args: Any, **options: Any) -> None:
        super().print_json(*args, **{"ensure_ascii": True} | options)


console = _Console(soft_wrap=True)
"""Untrusted text goes through `escaped`, and is printed without markup."""
PLAIN: Any = {"box": None, "pad_edge": False, "padding": (0, 2, 0, 0)}
"""How a table looks: as narrow as it can be."""
_NO_LIMIT = 100_000  # characters


def print_answer(sentence: str, data: object, *, as_json: bool) -> None:
    """Print the sentence for people, or the data for programs."""
    if as_json:
        console.print_json(data=data)
    else:
        console.print(sentence, markup=False)


def print_table(rows: Sequence[Mapping[str, object]], whole: Collection[str] = ()) -> None:
    """The rows under the names of the first one's fields; in a pipe nothing is cut to a width.

    The columns `whole` are not wrapped, so that people can copy their values.
    """
    table = Table(
        *(Column(name, overflow="fold", no_wrap=name in whole) for name in rows[0]), **PLAIN
    )
    for row in rows:
        # Text takes no markup: what others sent may have brackets.
        table.add_row(*(Text("" if cell is None else escaped(str(cell))) for cell in row.values()))
    show_table(table)


def show_table(table: Table) -> None:
    """The table as wide as the terminal, or in a pipe as wide as it wants to be."""
    _Console(soft_wrap=True, width=None if sys.stdout.isatty() else _NO_LIMIT).print(table)


def counted(number: int, one: str, many: str = "") -> str:
    """`1 row`, `2 rows`; or with `many` behind any other number than 1."""
    return f"{number} {one if number == 1 else many or f'{one}s'}"


def age(seconds: float) -> str:
    """How long something lasts, in its two largest units: 45s, 3m10s, 2h5m, 4d1h."""
    units = (("d", 86_400), ("h", 3600), ("m", 60), ("s", 1))
    left = int(seconds)
    parts: list[str] = []
    for unit, size in units:
        number, left = divmod(left, size)
        if number or parts:
            parts.append(f"{number}{unit}" if number else "")
    return "".join(parts[:2]) or "0s"


@contextmanager
def progress(what: str, total: int, *, quiet: bool) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal; call what it gives with each number that is done."""
    with bars(MofNCompleteColumn(), quiet=quiet or not total) as shown:
        task = shown.add_task(what, total=total)
        yield lambda done: shown.advance(task, done)


def bars(figures: ProgressColumn, *, quiet: bool) -> Progress:
    """Bars on a terminal, beside standard output; `figures` stands behind each of them."""
    return Progress(
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        figures,
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
        disable=quiet or not sys.stderr.isatty(),
    )


def ask_database(settings: "Settings", ask: Callable[[], T], *, makes_it: bool = False) -> T:
    """What `ask` returns, or end with the sentence why the database gave no answer.

    An embedded one that does not exist yet is created only if `makes_it`: looking at a service that
    never ran leaves no files.
    """
    return _ask("the database", settings.database_url, ask, makes_it)


def ask_broker(settings: "Settings", ask: Callable[[], T], *, makes_it: bool = False) -> T:
    """As `ask_database`, of the broker."""
    return _ask("the broker", settings.broker_url, ask, makes_it)


def _ask(what: str, url: str, ask: Callable[[], T], makes_it: bool) -> T:
    from amqp.exceptions import AMQPError
    from kombu.exceptions import OperationalError as BrokerError
    from sqlalchemy.exc import SQLAlchemyError

    from allocation.adapters.sql.database import translated
    from allocation.messaging.connection import without_password
    from allocation.service_layer.unit_of_work import (
        ConcurrentUpdate,
        SchemaMissing,
        StorageUnavailable,
    )

    if not makes_it and is_missing(url):
        fail(
            f"the service does not run here: {what} at {_embedded(url)} does not exist yet;"
            " `allocation up` starts everything, and ALLOCATION_STATE_DIR names the folder"
        )
    of_storage = (StorageUnavailable, ConcurrentUpdate)
    try:
        return ask()
    except (*of_storage, SQLAlchemyError, BrokerError, OSError, AMQPError) as error:
        known = translated(error) if isinstance(error, SQLAlchemyError) else error
        if isinstance(known, SchemaMissing):
            fail(
                f"{what} at {without_password(url)} lacks the schema of this version: run"
                " `allocation migrate`"
            )
        cause = error.__cause__ or error if isinstance(error, of_storage) else error
        reason = str(getattr(cause, "orig", cause)).strip()
        fail(f"{what} at {without_password(url)} does not respond: {reason}")


def is_missing(url: str) -> bool:
    """Whether the database or broker is an embedded one that nothing has made yet."""
    path = _embedded(url)
    return path is not None and not path.exists()


def _embedded(url: str) -> Path | None:
    """The file of a SQLite database, or the folder of an embedded broker."""
    scheme, _, path = url.partition("://")
    if scheme == "spool":
        return Path(unquote(path))
    return Path(path.removeprefix("/")) if scheme == "sqlite" and path.strip("/") else None


def misused(sentence: str) -> NoReturn:
    """End with the exit status of wrong usage: nothing was tried."""
    fail(sentence, MISUSED)


def fail(sentence: str, status: int = FAILED) -> NoReturn:
    """End with this exit status, saying what happened, to what, and what to do."""
    typer.echo(f"allocation: {escaped(sentence, lines=True)}", err=True)
    raise typer.Exit(status)
