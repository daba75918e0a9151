"""`allocation export`: batches and order lines as CSV, a table of any length in little memory."""

import csv
import os
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Annotated
from uuid import uuid4

import typer

from allocation.entrypoints.cli.terminal import (
    BROKEN_OFF,
    ask_database,
    console,
    counted,
    fail,
    misused,
    progress,
)
from allocation.messaging.command_line import AsJson, DryRun, Program

if TYPE_CHECKING:
    from allocation.views.exports import Export

app = Program(name="export", help="Export batches or order lines as CSV.", no_args_is_help=True)

Output = Annotated[
    Path | None,
    typer.Option(
        "--output",
        "-o",
        metavar="FILE",
        help="Write this file, completely or not at all; default: standard output.",
    ),
]
OfSku = Annotated[str | None, typer.Option("--sku", help="Only this product.")]

_ONE = {"batches": "batch", "lines": "line"}


@app.command()
def batches(
    output: Output = None, sku: OfSku = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Export the batches in the format of `import-batches`, except batches of quantity 0."""
    from allocation.views import exports

    _export("batches", exports.all_batches(sku), output, sku, dry_run, as_json)


@app.command()
def lines(
    output: Output = None, sku: OfSku = None, dry_run: DryRun = False, as_json: AsJson = False
) -> None:
    """Export every order line with its status and the batch that serves it."""
    from allocation.views import exports

    _export("lines", exports.all_lines(sku), output, sku, dry_run, as_json)


def _export(
    what: str, export: "Export", output: Path | None, sku: str | None, dry_run: bool, as_json: bool
) -> None:
    from allocation import bootstrap
    from allocation.views import exports, snapshot
    from allocation.views.cells import cell

    if as_json and output is None and not dry_run:
        misused("--json describes the written file: name one with --output")
    dependencies = bootstrap.build()
    settings, engine = dependencies.settings, dependencies.engine
    with ExitStack() as stack:
        connection = ask_database(settings, lambda: stack.enter_context(snapshot(engine)))
        if sku is not None and not ask_database(settings, lambda: exports.knows(connection, sku)):
            fail(f"no product has the sku {sku}: the first batch of a sku makes it known")
        total, left_out = ask_database(settings, lambda: export.count(connection))
        if not dry_run:
            chunks = export.read(connection)
            with (
                _target(output) as file,
                progress(what, total, quiet=as_json) as advance,
            ):
                writer = csv.writer(file, lineterminator="\n")
                writer.writerow(export.columns)
                while chunk := ask_database(settings, lambda: next(chunks, None)):
                    writer.writerows(map(cell, row) for row in chunk)
                    advance(len(chunk))
    if as_json:
        told = {"dry_run": dry_run, "exported": total, "left_out": left_out}
        console.print_json(data=told)
        return
    done = "would be" if dry_run else "was" if total == 1 else "were"
    besides = f"; of quantity 0 and left out: {left_out}" if left_out else ""
    # Standard output may be the table itself.
    typer.echo(
        f"{counted(total, _ONE[what], what)} {done} exported{besides}.",
        err=output is None and not dry_run,
    )


@contextmanager
def _target(output: Path | None) -> Iterator[IO[str]]:
    """Where to write: a file gets its name, and replaces another, only once it is complete."""
    if output is None:
        yield sys.stdout
        return
    target = output.resolve()
    if target.exists() and not target.is_file():  # a pipe, a terminal: nothing to replace
        with _opened(target) as opened:
            yield opened
        return
    part = target.with_name(f".{target.name}.{uuid4().hex[:8]}.part")
    try:
        with _opened(part) as opened:
            yield opened
            opened.flush()
            os.fsync(opened.fileno())
        part.replace(target)
    except KeyboardInterrupt:
        fail(f"interrupted; nothing was written to {output}", BROKEN_OFF)
    except OSError as error:
        fail(f"{output}: {error.strerror or error}; nothing was written")
    finally:
        part.unlink(missing_ok=True)


def _opened(file: Path) -> IO[str]:
    try:
        return file.open("w", encoding="utf-8", newline="")
    except OSError as error:
        misused(f"{file.parent}: {error.strerror}: --output can't be written there")
