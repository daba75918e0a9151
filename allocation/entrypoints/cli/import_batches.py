"""`allocation import-batches`: a CSV file of batches goes in, many rows by one transaction."""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from io import BufferedReader
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated

import typer

from allocation.entrypoints.cli.date_order import DateOrder
from allocation.entrypoints.cli.terminal import BROKEN_OFF, FAILED, MISUSED, bars, fail
from allocation.messaging.command_line import AsJson

if TYPE_CHECKING:
    from allocation.entrypoints.cli.import_report import Report

CHUNK = 500
"""Rows that are read, and handed over by one transaction, at once."""


def import_batches(
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE.csv",
            help="CSV file with the columns batchref, sku, qty and optionally eta and"
            " best_before; - reads standard input.",
        ),
    ],
    wait: Annotated[
        float,
        typer.Option(
            min=0,
            metavar="SECONDS",
            help="Stop if nothing was accepted or decided for this many seconds.",
        ),
    ] = 60,
    no_wait: Annotated[
        bool, typer.Option("--no-wait", help="Only send the commands; don't wait for outcomes.")
    ] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only check the rows; send nothing.")
    ] = False,
    rejected: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Write the rejected rows to this file, to be corrected and imported again.",
        ),
    ] = None,
    dates: Annotated[
        DateOrder | None,
        typer.Option(help="Also accept local dates: 31.12.2026 or 31/12/2026, or 12/31/2026."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Create a batch for each row of a CSV file; running it again changes nothing.

    Exit status: 0 if every batch exists, 1 if some rows are rejected or undecided, 2 if
    the file can't be read.
    """
    from rich.progress import TaskProgressColumn

    from allocation import bootstrap
    from allocation.entrypoints.cli.batch_rows import BatchRows, Unreadable
    from allocation.entrypoints.cli.handover import Handover, Stalled
    from allocation.entrypoints.cli.import_report import RejectedFile, Report

    dependencies, report = bootstrap.build(), Report()
    try:
        with ExitStack() as stack:
            source = stack.enter_context(_opened(file))
            rows = BatchRows(source, dates)
            if rows.ignored:
                typer.echo(f"allocation: {file}: {_ignored(rows.ignored)}", err=True)
            if rejected is not None:
                encoding = "utf-8-sig" if rows.has_byte_order_mark else "utf-8"
                written = stack.enter_context(_written(rejected, source, encoding))
                report.file = RejectedFile(written, rows.columns, rows.delimiter)
            shown = stack.enter_context(bars(TaskProgressColumn(), quiet=as_json))
            size = _size(source)
            reading = shown.add_task("reading", total=size)
            deciding = shown.add_task("deciding", total=0, visible=not (no_wait or dry_run))

            def show() -> None:
                shown.update(reading, completed=source.tell() if size else 0)
                settled = report.rows - report.undecided
                shown.update(deciding, total=report.rows, completed=settled)

            handover = Handover(
                dependencies, report, timeout=wait, follows=not no_wait, looked=show
            )
            unread = iter(rows)
            while chunk := list(islice(unread, CHUNK)):
                good = report.read(chunk)
                if not dry_run:
                    handover.take(good)
                show()
            handover.wait_for_all()
    except Unreadable as error:
        fail(f"{file}: {error}{_safe(report)}", MISUSED)
    except OSError as error:
        fail(f"{error.filename or file}: {error.strerror or error}{_safe(report)}", MISUSED)
    except typer.Exit:  # the database is away
        if report.accepted:
            typer.echo(f"allocation: interrupted{_safe(report)}", err=True)
        raise
    except KeyboardInterrupt:
        fail(f"interrupted{_safe(report)}", BROKEN_OFF)
    except Stalled as reason:
        report.print(dry_run=dry_run, as_json=as_json)
        fail(
            f"no progress for {wait:g} seconds: {reason}. Are worker and relay running?"
            f" `allocation status` shows what is pending{_safe(report)}"
        )
    report.print(dry_run=dry_run, as_json=as_json)
    if report.rejected or report.failed or (report.undecided and not no_wait):
        raise typer.Exit(FAILED)


@contextmanager
def _opened(file: Path) -> Iterator[BufferedReader]:
    standard_input = str(file) == "-"
    with open(0 if standard_input else file, "rb", closefd=not standard_input) as opened:
        yield opened


@contextmanager
def _written(file: Path, source: BufferedReader, encoding: str) -> Iterator[IO[str]]:
    from allocation.entrypoints.cli.batch_rows import Unreadable

    if file.exists() and os.path.samestat(file.stat(), os.fstat(source.fileno())):
        raise Unreadable("is the input file, so the rejected rows can't be written to it")
    # What is not UTF-8 is written as it came.
    with file.open("w", encoding=encoding, errors="surrogateescape", newline="") as opened:
        yield opened


def _size(source: BufferedReader) -> int | None:
    """In bytes; None for a pipe."""
    status = os.fstat(source.fileno())
    return status.st_size if stat.S_ISREG(status.st_mode) else None


def _ignored(names: Sequence[str]) -> str:
    if len(names) == 1:
        return f"the column {names[0]} is ignored"
    return f"the columns {', '.join(names)} are ignored"


def _safe(report: "Report") -> str:
    if not report.accepted:
        return ""
    return (
        f"; {report.accepted} rows were sent so far. Run the same command again to continue: no"
        " row takes effect twice"
    )
