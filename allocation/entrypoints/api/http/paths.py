"""Paths in one canonical spelling; a segment may have any character, also an encoded slash.

WSGI servers decode the path before it is routed, so that `SO%2F1` would become two segments. Here
PATH_INFO stays percent-encoded, routes match it segment by segment, and the converter decodes what
a segment says. `request.path` and `request.full_path` can be used in links as they are.
"""

from collections.abc import Callable, Iterable
from typing import Any
from urllib.parse import quote, unquote, unquote_to_bytes, urlsplit

from flask import Flask
from werkzeug.routing import BaseConverter

Environ = dict[str, Any]
Wsgi = Callable[[Environ, Callable[..., Any]], Iterable[bytes]]


def register(app: Flask) -> None:
    """Route `app` by the path as it was sent. Call this before routes are added."""
    app.url_map.converters["default"] = Segment
    app.wsgi_app = _Raw(app.wsgi_app)  # type: ignore[method-assign]


class Segment(BaseConverter):
    """A path's segment in `canonical` spelling; bytes that are not UTF-8 become surrogates."""

    def to_python(self, value: str) -> str:
        return unquote(value, errors="surrogateescape")

    def to_url(self, value: object) -> str:
        return quote(str(value), safe="")


class _Raw:
    def __init__(self, app: Wsgi) -> None:
        self._app = app

    def __call__(self, environ: Environ, start_response: Callable[..., Any]) -> Iterable[bytes]:
        environ["PATH_INFO"] = canonical(sent_path(environ))
        return self._app(environ, start_response)


def sent_path(environ: Environ) -> str:
    """The path as it was sent, behind SCRIPT_NAME; rebuilt if the server does not pass it on."""
    decoded = environ.get("PATH_INFO", "")
    raw = environ.get("RAW_URI") or environ.get("REQUEST_URI") or ""
    if not raw.startswith("/"):  # the absolute form of a request to a proxy
        raw = urlsplit(raw).path
    raw = raw.partition("?")[0].partition("#")[0].removeprefix(environ.get("SCRIPT_NAME", ""))
    # A middleware may have changed PATH_INFO alone, which then counts.
    if unquote(raw, "latin-1") == decoded:
        return raw
    return quote(decoded.encode("latin-1"))


def canonical(path: str) -> str:
    # A server hands over the bytes of the request as Latin-1.
    segments = path.encode("latin-1").split(b"/")
    return "/".join(quote(unquote_to_bytes(segment), safe="") for segment in segments)
