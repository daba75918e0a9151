"""The rows of a CSV file of batches, read line by line, each held against the contract."""

import csv
import json
import re
from codecs import BOM_UTF8
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from typing import Any, BinaryIO
from uuid import UUID, uuid5

from allocation.adapters import contract
from allocation.domain.commands import CreateBatch, Malformed
from allocation.unit_of_work import Message
from allocation.views.cells import text as text_of

COMMAND = "allocation.create_batch"
REQUIRED = ("batchref", "sku", "qty")
DAYS = ("eta", "best_before")
COLUMNS = (*REQUIRED, *DAYS)
NOTES = ("line", "reason")
"""Columns of the rejected rows' file, not looked at: it can be mended and imported as it is."""

LONGEST_LINE = 65_536  # bytes

_ROW_IDS = UUID("6a0b7d0e-41c5-4f4a-9f0b-2d3c8f5f7a55")
_WHOLE_NUMBER = re.compile("-?[0-9]+")


class Unreadable(Exception):
    """The file as a whole can't be imported."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row that keeps the contract, and the command that it becomes."""

    line: int
    cells: tuple[str, ...]
    message: Message
    batchref: str


@dataclass(frozen=True, slots=True)
class Rejected:
    """A row that can't become a batch: `field` (empty: the row as a whole) is why."""

    line: int
    cells: tuple[str, ...]
    field: str
    reason: str


class BatchRows:
    """What is in the file, by line: a batch is one line, as no field may have a line break.

    `columns` are those of the header, `bytes_read` grows with the rows. Raises Unreadable for an
    empty file and a header that is not understood.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.bytes_read = 0
        self.columns = self._header()

    def __iter__(self) -> Iterator[Row | Rejected]:
        for line in count(2):
            text = self._next_line()
            if text is None:
                return
            if text.strip():
                yield self._row(line, text)

    def _header(self) -> tuple[str, ...]:
        text = self._next_line()
        if not text or not text.strip():
            raise Unreadable("line 1 is empty: it names the columns, " + ",".join(COLUMNS))
        try:
            columns = tuple(name.strip() for name in _cells(text, strict=True))
        except csv.Error as error:
            raise Unreadable(f"line 1: {_quoting(error)}") from error
        for number, name in enumerate(columns):
            if name not in (*COLUMNS, *NOTES):
                known = ", ".join(COLUMNS)
                raise Unreadable(f"line 1: the column {_shown(name)} is not one of {known}")
            if name in columns[:number]:
                raise Unreadable(f"line 1: the column {name} comes twice")
        if missing := [name for name in REQUIRED if name not in columns]:
            raise Unreadable(f"line 1: the column {missing[0]} is missing")
        return columns

    def _next_line(self) -> str | None:
        """What it says; None at the end. What is not UTF-8 is kept, for its row to be rejected.

        Of a line that is too long only the beginning is kept.
        """
        first = self.bytes_read == 0
        raw = part = self._file.readline(LONGEST_LINE)
        self.bytes_read += len(part)
        while len(part) == LONGEST_LINE and not part.endswith(b"\n"):
            part = self._file.readline(LONGEST_LINE)
            self.bytes_read += len(part)
        if first:
            raw = raw.removeprefix(BOM_UTF8)
        return raw.decode(errors="surrogateescape") if raw else None

    def _row(self, line: int, text: str) -> Row | Rejected:
        try:
            cells = _cells(text, strict=True)
        except csv.Error as error:
            # As much of it as can be told apart, for whoever mends it.
            cells = _cells(text.replace("\r", " ").rstrip(), strict=False)
            return Rejected(line, cells, "", _quoting(error))
        if len(cells) != len(self.columns):
            missing = self.columns[len(cells)] if len(cells) < len(self.columns) else ""
            reason = f"the row has {len(cells)} fields, and the header {len(self.columns)}"
            return Rejected(line, cells, missing, reason)
        body: dict[str, Any] = dict(zip(self.columns, map(text_of, cells), strict=True))
        for note in NOTES:
            body.pop(note, None)
        for field, value in body.items():
            if not value.isprintable() and _is_not_utf8(value):
                return Rejected(line, cells, field, "is not UTF-8")
        if not _WHOLE_NUMBER.fullmatch(body["qty"]):
            return Rejected(line, cells, "qty", "is not a whole number")
        # Cut before it is counted: the digits may be endless, and 20 are too many already.
        body["qty"] = int(body["qty"][:20])
        body |= {day: body.get(day) or None for day in DAYS}
        command = contract.parse_command(COMMAND, body)
        if isinstance(command, Malformed):
            return Rejected(line, cells, command.field, command.problem)
        assert isinstance(command, CreateBatch), f"{COMMAND} makes no batch"
        command_id = _id(command)
        return Row(line, cells, Message(command_id, command, command_id), command.batchref)


def _id(command: CreateBatch) -> UUID:
    """The same for the same facts, however often and in whatever file they come."""
    facts = [command.batchref, command.sku, command.qty, command.eta]
    if command.best_before is not None:
        facts.append(command.best_before)  # else the same as before there was such a day
    return uuid5(_ROW_IDS, json.dumps(facts, default=str))


def _cells(text: str, *, strict: bool) -> tuple[str, ...]:
    return tuple(next(csv.reader((text,), strict=strict), ()))


def _quoting(error: csv.Error) -> str:
    if str(error) == "unexpected end of data":
        return "a quote is not closed on its line"
    if str(error).startswith("new-line character"):
        return "the line has a carriage return"
    return f"wrong quoting: {error}"


def _is_not_utf8(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _shown(name: str) -> str:
    return name[:100] if name and name.isprintable() else ascii(name[:100])
