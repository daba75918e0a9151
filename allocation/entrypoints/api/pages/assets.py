"""The files of the pages: style, script, icon; anyone may fetch them."""

from importlib.resources import files

from flask import Blueprint, Response
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api import pages

OPEN = {"assets.file"}
"""Its endpoints: the form to log in needs them, too."""

_KINDS = {
    "site.css": "text/css; charset=utf-8",
    "pages.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    # htmx 2.0.11 of npm's htmx.org, as it came; 0BSD.
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}


def blueprint() -> Blueprint:
    made = Blueprint("assets", __name__)
    made.get("/assets/<name>", endpoint="file")(_file)
    return made


def _file(name: str) -> Response:
    if name not in _KINDS:
        raise NotFound("The pages have no such file.")
    content = (files(pages) / "static" / name).read_bytes()
    return Response(content, headers={"Cache-Control": "max-age=3600"}, content_type=_KINDS[name])
