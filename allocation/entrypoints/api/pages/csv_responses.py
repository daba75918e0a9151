"""Tables as CSV for spreadsheets, sent while they are read."""

import csv
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from typing import Any

from flask import Response
from sqlalchemy import Connection

from allocation.entrypoints.api.http.downloads import attachment
from allocation.entrypoints.api.state import snapshot
from allocation.views.cells import cell

_ROWS = 500

Rows = Iterable[Mapping[str, Any]]


def sheet(name: str, columns: Sequence[str], rows: Callable[[Connection], Rows]) -> Response:
    """The rows as the file `name`.csv; a text that would be a formula begins with an apostrophe.

    All are read from one snapshot, which stays open while they are sent.
    """

    def text() -> Iterator[str]:
        buffer = StringIO()
        writer = csv.writer(buffer)
        writer.writerow(columns)
        with snapshot() as connection:
            for number, row in enumerate(rows(connection), 1):
                writer.writerow([cell(row[column]) for column in columns])
                if number % _ROWS == 0:
                    yield _taken(buffer)
        yield _taken(buffer)

    return Response(
        text(),
        content_type="text/csv; charset=utf-8",
        headers={"Content-Disposition": attachment(f"{name}.csv")},
    )


def _taken(buffer: StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
