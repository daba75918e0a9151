"""The pages for people: products, orders, operations; rendered here, kept up to date by /stream."""

from importlib.resources import files

from flask import Blueprint, Response
from werkzeug.exceptions import NotFound

from allocation.entrypoints.api.pages import (
    actions,
    batches,
    operations,
    orders,
    products,
    reasons,
    template_filters,
)

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self';"
    " form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
"""A page runs and shows nothing but its own files."""

OPEN = {"assets.file"}
"""Endpoints that require no key: the login form needs style, script and icon, too."""

_ASSETS = {
    "site.css": "text/css; charset=utf-8",
    "pages.css": "text/css; charset=utf-8",
    "live.js": "text/javascript; charset=utf-8",
    # htmx 2.0.11 of npm's htmx.org, as it came; 0BSD.
    "htmx.min.js": "text/javascript; charset=utf-8",
    "icon.svg": "image/svg+xml",
}

assets = Blueprint("assets", __name__)


@assets.get("/assets/<name>")
def file(name: str) -> Response:
    if name not in _ASSETS:
        raise NotFound("The pages have no such file.")
    content = (files(__name__) / "static" / name).read_bytes()
    return Response(content, headers={"Cache-Control": "max-age=3600"}, content_type=_ASSETS[name])


def blueprint() -> Blueprint:
    made = Blueprint("pages", __name__, template_folder="templates")
    template_filters.register(made)
    reasons.register(made)
    for module in (products, orders, batches, actions, operations):
        module.register(made)

    @made.after_request
    def guard(response: Response) -> Response:
        response.headers["Content-Security-Policy"] = POLICY
        return response

    return made
