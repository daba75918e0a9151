"""The rows of a CSV file of batches, as spreadsheets write it, each validated by the contract.

A value that could mean two things is rejected, never guessed: a thousands separator, a local date
without `--dates`, a header that fits two delimiters.
"""

import csv
import json
import re
from codecs import BOM_UTF8, BOM_UTF16_BE, BOM_UTF16_LE, BOM_UTF32_BE, BOM_UTF32_LE
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from io import BufferedReader, RawIOBase, TextIOWrapper
from itertools import count
from typing import Any
from uuid import UUID, uuid5

from allocation.contract import codec
from allocation.domain.commands import CreateBatch, Malformed
from allocation.entrypoints.cli.date_order import DateOrder
from allocation.service_layer.unit_of_work import Message
from allocation.views.cells import text as text_of

COMMAND = "allocation.create_batch"
REQUIRED = ("batchref", "sku", "qty")
DAYS = ("eta", "best_before")
COLUMNS = (*REQUIRED, *DAYS)
NOTES = ("line", "reason")
"""Columns of the rejected rows' file, not looked at: it can be corrected and imported as it is."""

LONGEST_LINE = 65_536
"""Characters; also of a record whose quoted cells have line breaks."""

_ROW_IDS = UUID("6a0b7d0e-41c5-4f4a-9f0b-2d3c8f5f7a55")
_DELIMITERS = {",": "commas", ";": "semicolons", "\t": "tabs"}
_SEPARATOR_LINE = re.compile(r'"?sep=([^\w\s"]|\t)"?\s*', re.IGNORECASE)
_WHOLE_NUMBER = re.compile(r"(-?[0-9]+)(?:[.,]0{1,2})?")
_THOUSANDS = re.compile(r"-?[0-9]{1,3}(?:[.,'’\s][0-9]{3})+(?:[.,][0-9]*)?")
_ISO_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_LOCAL_DAY = re.compile(r"([0-9]{1,2})([./-])([0-9]{1,2})\2([0-9]{4})")
_SHORT_YEAR = re.compile(r"[0-9]{1,2}([./-])[0-9]{1,2}\1[0-9]{2}")
_SAVE_AS_UTF_8 = "save it as “CSV UTF-8”"


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


@dataclass(frozen=True, slots=True)
class _Line:
    number: int
    text: str
    cut: bool = False


class BatchRows:
    """The rows of the file, by the line that each begins on.

    `columns` are those of the header, known ones under their own name; `ignored` are the unknown
    ones. Raises Unreadable for an empty file, a header that is not understood, and an encoding
    other than UTF-8 or UTF-16 with its byte order mark.
    """

    def __init__(self, file: BufferedReader, dates: DateOrder | None = None) -> None:
        self._dates = dates
        self.columns: tuple[str, ...] = ()
        self._text = self._decoded(file)
        self._lines = self._read_lines()
        self._ahead: deque[_Line] = deque()
        header = self._next_record()
        given = _SEPARATOR_LINE.fullmatch(header.text) if header else None
        self.delimiter, self.columns = self._header(
            self._next_record() if given else header, given and given[1]
        )
        self.ignored = tuple(
            _shown(name) for name in self.columns if name and name not in (*COLUMNS, *NOTES)
        )

    def __iter__(self) -> Iterator[Row | Rejected]:
        while line := self._next_record():
            if read := self._row(line):
                yield read

    def _header(self, line: _Line | None, delimiter: str | None) -> tuple[str, tuple[str, ...]]:
        if line is None or not line.text.strip():
            number = line.number if line else 1 + (delimiter is not None)
            raise Unreadable(
                f"line {number} is empty: it must name the columns, {','.join(COLUMNS)}"
            )
        if "\0" in line.text:
            raise Unreadable(
                f"line {line.number} has NUL characters, as in UTF-16 without a byte order mark:"
                f" {_SAVE_AS_UTF_8}"
            )
        read = {}
        for each in (delimiter,) if delimiter else tuple(_DELIMITERS):
            try:
                read[each] = _names(_cells(line.text, each))
            except csv.Error as error:
                quoting = _quoting(error)
        if not read:
            raise Unreadable(f"line {line.number}: {quoting}")
        fitting = [each for each, columns in read.items() if set(REQUIRED) <= set(columns)]
        if len(fitting) > 1:
            kinds = " and by ".join(_DELIMITERS[each] for each in fitting)
            raise Unreadable(
                f"line {line.number}: the header can be read by {kinds}: write `sep=` and the"
                " delimiter into a line before it"
            )
        # The delimiter with the most known columns, for the error too.
        found = max(read, key=lambda each: len(set(COLUMNS) & set(read[each])))
        columns = read[found]
        if twice := [name for name in COLUMNS if columns.count(name) > 1]:
            raise Unreadable(f"line {line.number}: the column {twice[0]} appears twice")
        if missing := [name for name in REQUIRED if name not in columns]:
            raise Unreadable(
                f"line {line.number}: the column {missing[0]} is missing; the header has"
                f" {', '.join(_shown(name) for name in columns)}"
            )
        return found, columns

    def _next_record(self) -> _Line | None:
        """The next line, with those after it where a quoted cell has line breaks; None at the end.

        If no later line closes the quote in time, it is this line alone, which is then rejected.
        """
        line = self._next_line()
        if line is None or line.text.count('"') % 2 == 0:
            return line
        text, more = line.text, []
        while len(text) <= LONGEST_LINE and (following := self._next_line()):
            more.append(following)
            text += following.text
            if text.count('"') % 2 == 0:
                if self._is_record(text):
                    return _Line(line.number, text, len(text) > LONGEST_LINE)
                break
        self._ahead.extendleft(reversed(more))
        return line

    def _is_record(self, text: str) -> bool:
        """Whether these lines are one record: only ignored cells may have line breaks."""
        if not self.columns:  # it is the header
            return True
        try:
            cells = _cells(text, self.delimiter)
        except csv.Error:
            return False
        return not any(
            "\n" in cell for name, cell in zip(self.columns, cells, strict=False) if name in COLUMNS
        )

    def _next_line(self) -> _Line | None:
        return self._ahead.popleft() if self._ahead else next(self._lines, None)

    def _decoded(self, file: BufferedReader) -> TextIOWrapper:
        """Bytes that are not UTF-8 are kept as surrogates, so that their row alone is rejected."""
        first = file.read(4)
        if first.startswith((BOM_UTF32_LE, BOM_UTF32_BE)):
            raise Unreadable(f"it is UTF-32: {_SAVE_AS_UTF_8}")
        utf_16 = first.startswith((BOM_UTF16_LE, BOM_UTF16_BE))
        self.has_byte_order_mark = utf_16 or first.startswith(BOM_UTF8)
        return TextIOWrapper(
            BufferedReader(_PutBack(first, file)),
            "utf-16" if utf_16 else "utf-8-sig",
            errors="strict" if utf_16 else "surrogateescape",
            newline="\n",
        )

    def _read_lines(self) -> Iterator[_Line]:
        """The lines; of one that is too long only the beginning is kept."""
        for number in count(1):
            try:
                text = self._text.readline(LONGEST_LINE + 1)
                rest = text
                while len(rest) > LONGEST_LINE and not rest.endswith("\n"):
                    rest = self._text.readline(LONGEST_LINE + 1)
            except UnicodeDecodeError as error:
                raise Unreadable(
                    f"line {number} or one after it is not UTF-16, as the byte order mark says:"
                    f" {_SAVE_AS_UTF_8}"
                ) from error
            if not text:
                return
            cut = len(text) > LONGEST_LINE and not text.endswith("\n")
            yield _Line(number, text[:LONGEST_LINE] + "\n" if cut else text, cut)

    def _row(self, line: _Line) -> Row | Rejected | None:
        """None for a row of empty cells."""
        try:
            cells = _cells(line.text, self.delimiter)
        except csv.Error as error:
            # As many cells as can be told apart, for the file of rejected rows.
            text = line.text.replace("\r", " ").rstrip()
            cells = _cells(text, self.delimiter, strict=False)
            return Rejected(line.number, cells, "", _quoting(error))
        if not any(cells):
            return None
        if line.cut:
            reason = f"the line has more than {LONGEST_LINE} characters"
            return Rejected(line.number, cells, "", reason)
        try:
            body = self._body(cells)
        except _WrongCell as wrong:
            return Rejected(line.number, cells, wrong.field, wrong.reason)
        command = codec.parse_command(COMMAND, body)
        if isinstance(command, Malformed):
            first = command.violations[0]
            return Rejected(line.number, cells, first.field, first.problem)
        assert isinstance(command, CreateBatch), f"{COMMAND} makes no batch"
        command_id = _id(command)
        return Row(line.number, cells, Message(command_id, command, command_id), command.batchref)

    def _body(self, cells: tuple[str, ...]) -> dict[str, Any]:
        for number, cell in enumerate(cells):
            if cell and (number >= len(self.columns) or not self.columns[number]):
                raise _WrongCell(
                    "", f"the header names no column {number + 1}, which has the value {cell[:40]}"
                )
        # Cells that a spreadsheet left out at the end of a row are empty.
        padded = (*cells, *("" for _ in self.columns[len(cells) :]))
        named = {
            name: text_of(cell)
            for name, cell in zip(self.columns, padded, strict=False)
            if name in COLUMNS  # a name that comes twice is an ignored column's
        }
        for field, value in named.items():
            if not value.isprintable() and any("\ud800" <= each <= "\udfff" for each in value):
                raise _WrongCell(field, "is not UTF-8: save the file as CSV UTF-8")
        days = {day: _day(day, named.get(day, ""), self._dates) for day in DAYS}
        return named | {"qty": _whole_number(named["qty"])} | days


class _PutBack(RawIOBase):
    """The file as it was before `first` was read: a pipe can't be rewound, nor be made to peek."""

    def __init__(self, first: bytes, file: BufferedReader) -> None:
        self._first = first
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        taken, self._first = self._first or self._file.read1(len(buffer)), b""
        buffer[: len(taken)] = taken
        return len(taken)


class _WrongCell(Exception):
    """A value that can't be read without guessing."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(field, reason)
        self.field, self.reason = field, reason


def _whole_number(text: str) -> int:
    if found := _WHOLE_NUMBER.fullmatch(text):
        # Cut before it is converted: the digits may be endless, and 20 are too many already.
        return int(found[1][:20])
    if not text:
        raise _WrongCell("qty", "is empty")
    if _THOUSANDS.fullmatch(text):
        without = re.sub(r"[^0-9]", "", re.sub(r"[.,][0-9]{0,2}$", "", text))
        raise _WrongCell(
            "qty",
            f"{text} may have a thousands separator or decimals:"
            f" write {without} if it is that many",
        )
    raise _WrongCell("qty", "is not a whole number")


def _day(field: str, text: str, order: DateOrder | None) -> str | None:
    """The day in ISO 8601, as the contract has it; None for an empty cell."""
    if not text:
        return None
    if _ISO_DAY.fullmatch(text):
        return text
    if _SHORT_YEAR.fullmatch(text):
        raise _WrongCell(field, f"{text} has a year of two digits: write YYYY-MM-DD")
    found = _LOCAL_DAY.fullmatch(text)
    if not found:
        raise _WrongCell(field, "is not a date: write YYYY-MM-DD")
    if order is None:
        raise _WrongCell(
            field,
            f"{text} may begin with the day or the month: write YYYY-MM-DD, or say"
            " `--dates day-first` or `--dates month-first`",
        )
    one, separator, two, year = found.groups()
    day, month = (one, two) if order is DateOrder.DAY_FIRST else (two, one)
    # Dates with full stops have the day first everywhere.
    if separator != "." or order is DateOrder.DAY_FIRST:
        try:
            return date(int(year), int(month), int(day)).isoformat()
        except ValueError:
            pass
    raise _WrongCell(field, f"{text} is not a date with the {order.partition('-')[0]} first")


def _id(command: CreateBatch) -> UUID:
    """The same for the same facts, however often and in whatever file they come."""
    facts = [command.batchref, command.sku, command.qty, command.eta]
    if command.best_before is not None:
        facts.append(command.best_before)  # else the same as before there was such a day
    return uuid5(_ROW_IDS, json.dumps(facts, default=str))


def _names(cells: tuple[str, ...]) -> tuple[str, ...]:
    """The names in the header; known ones in their usual spelling, whatever their case."""
    plain = {name: re.sub(r"[\s-]+", "_", name.casefold()) for name in cells}
    return tuple(plain[name] if plain[name] in (*COLUMNS, *NOTES) else name for name in cells)


def _cells(text: str, delimiter: str, *, strict: bool = True) -> tuple[str, ...]:
    """The cells of one record, without the white space around them."""
    reader = csv.reader((text,), delimiter=delimiter, skipinitialspace=True, strict=strict)
    return tuple(cell.strip() for cell in next(reader, ()))


def _quoting(error: csv.Error) -> str:
    if str(error) == "unexpected end of data":
        return "a quote is not closed on its line"
    if str(error).startswith("new-line character"):
        return "the line has a carriage return"
    return f"wrong quoting: {error}"


def _shown(name: str) -> str:
    return name[:100] if name and name.isprintable() else ascii(name[:100])
