"""Counts the outcomes of an import's rows, and shows and writes the rejected ones."""

import csv
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import IO

from allocation.entrypoints.cli.batch_rows import NOTES, Rejected, Row
from allocation.entrypoints.cli.terminal import console, counted, print_table
from allocation.messaging.telemetry.escaping import escaped
from allocation.views.progress import Standing

SHOWN = 20
"""Rejected rows in the terminal."""
LISTED = 1000
"""Rejected rows that are kept, and listed in JSON; the file has all of them."""

_FAILED = "no worker could decide it: see `allocation dead list`"


class RejectedFile:
    """Rejected rows as CSV, with line and reason before each; it can be corrected and imported.

    It has the delimiter of the imported file, which the user's spreadsheet expects.
    """

    def __init__(self, file: IO[str], columns: tuple[str, ...], delimiter: str) -> None:
        self._writer = csv.writer(file, delimiter=delimiter)
        # Line and reason of an earlier import are replaced.
        self._kept = [index for index, name in enumerate(columns) if name not in NOTES]
        self._columns = len(columns)
        self._writer.writerow([*NOTES, *(columns[index] for index in self._kept)])

    def write(self, row: Rejected) -> None:
        cells = [row.cells[index] for index in self._kept if index < len(row.cells)]
        # Cells beyond the header come last: nothing of the row is lost.
        self._writer.writerow([row.line, _why(row), *cells, *row.cells[self._columns :]])


@dataclass
class Report:
    """Counts of rows, and the rejected ones of the lowest lines.

    `accepted`: handed over by this run. `known`: handed over before, by an earlier run or a row
    above. `created`, `rejected` and `failed` are what is known of the outcomes, of both.
    """

    rows: int = 0
    accepted: int = 0
    known: int = 0
    created: int = 0
    rejected: int = 0
    failed: int = 0
    undecided: int = 0
    first: list[Rejected] = field(default_factory=list)
    file: RejectedFile | None = None

    def read(self, rows: Sequence[Row | Rejected]) -> list[Row]:
        """Count them; returns those that keep the contract."""
        self.rows += len(rows)
        for row in rows:
            if isinstance(row, Rejected):
                self.reject(row)
        return [row for row in rows if isinstance(row, Row)]

    def reject(self, row: Rejected) -> None:
        """Count a row that can't become a batch."""
        self.rejected += 1
        self._note(row)

    def decide(self, row: Row, standing: Standing) -> None:
        """Count what was decided of a row that was undecided."""
        self.undecided -= 1
        if standing.status == "succeeded":
            self.created += 1
        elif standing.status == "failed":
            self.failed += 1
            self._note(Rejected(row.line, row.cells, "", _FAILED))
        else:
            outcome = standing.outcome
            self.reject(Rejected(row.line, row.cells, outcome["field"], outcome["reason"]))

    def _note(self, row: Rejected) -> None:
        insort(self.first, row, key=lambda known: known.line)
        del self.first[LISTED:]
        if self.file is not None:
            self.file.write(row)

    def print(self, *, dry_run: bool, as_json: bool) -> None:
        """The whole of it for people, or for a program, with the first LISTED rejected rows."""
        if as_json:
            names = ("rows", "accepted", "known", "created", "rejected", "failed", "undecided")
            listed = [
                {"line": row.line, "field": row.field, "reason": escaped(row.reason)}
                for row in self.first
            ]
            counts = {name: getattr(self, name) for name in names}
            console.print_json(data={"dry_run": dry_run} | counts | {"rejected_rows": listed})
            return
        told = [f"{self.created} created", f"{self.rejected} rejected"]
        if dry_run:
            told = [f"{self.rows - self.rejected} can be imported", f"{self.rejected} rejected"]
        told += [f"{self.failed} failed"] if self.failed else []
        told += [f"{self.undecided} undecided"] if self.undecided else []
        known = f" {self.known} were sent before." if self.known else ""
        console.print(f"{counted(self.rows, 'row')}: {', '.join(told)}.{known}", highlight=False)
        if self.first:
            print_table([_shown(row) for row in self.first[:SHOWN]])
        if (more := self.rejected + self.failed - SHOWN) > 0:
            how = "." if self.file else ": `--rejected FILE` writes all of them."
            console.print(f"... and {more} more{how}")


def _why(row: Rejected) -> str:
    return f"{row.field}: {row.reason}" if row.field else row.reason


def _shown(row: Rejected) -> dict[str, object]:
    cells = escaped(", ".join(row.cells))
    row_text = cells if len(cells) <= 60 else f"{cells[:57]}..."
    return {"line": row.line, "field": row.field, "reason": row.reason, "row": row_text}
