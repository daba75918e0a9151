"""CSV responses for spreadsheets, sent while they are read."""

import csv
import re
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from io import StringIO
from typing import Any
from urllib.parse import quote

from flask import Response
from sqlalchemy import Connection
from werkzeug.http import dump_options_header

from allocation import views
from allocation.entrypoints.api import state
from allocation.views.cells import cell

_ROWS = 500

# Each of these has a special meaning in file names, or is not allowed, on some system.
_UNSAFE = re.compile(r'[\x00-\x1f\x7f-\x9f\ud800-\udfff/\\:*?"<>|%]')
_PLAIN = "!#$&+-.^_`|~"  # allowed unencoded by RFC 8187, besides letters and digits

Rows = Iterable[Mapping[str, Any]]


def csv_response(name: str, columns: Sequence[str], rows: Callable[[Connection], Rows]) -> Response:
    """The rows as the file `name`.csv; a text that would be a formula begins with an apostrophe.

    All are read from one snapshot, which stays open while they are sent.
    """

    engine = state.current().dependencies.engine  # the text is made outside of the request

    def text() -> Iterator[str]:
        buffer = StringIO()
        writer = csv.writer(buffer)
        writer.writerow(columns)
        with views.snapshot(engine) as connection:
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


def attachment(name: str) -> str:
    """The Content-Disposition of a download called `name` (RFC 6266).

    Characters that a file name can't have become underscores. A name beyond ASCII comes with an
    ASCII one, for clients that don't know `filename*`.
    """
    safe = _UNSAFE.sub("_", name)
    plain = unicodedata.normalize("NFKD", safe).encode("ascii", "ignore").decode("ascii")
    names = {"filename": plain}
    if plain != safe:
        names["filename*"] = f"UTF-8''{quote(safe, safe=_PLAIN)}"
    return dump_options_header("attachment", names)


def _taken(buffer: StringIO) -> str:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text
