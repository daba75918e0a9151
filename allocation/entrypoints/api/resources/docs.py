"""The descriptions: OpenAPI, AsyncAPI, the page of each, and what each kind of problem means."""

from importlib.resources import files

from flask import Response, jsonify, render_template
from werkzeug.exceptions import NotFound

from allocation.contract.asyncapi import document as asyncapi_document
from allocation.entrypoints.api import state
from allocation.entrypoints.api.description import events_page
from allocation.entrypoints.api.description.schemas import TEXT, Answer
from allocation.entrypoints.api.http.problems import KINDS, type_uri
from allocation.entrypoints.api.http.routes import Resource

START = """\
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark-mode", dark.matches);
paint();
dark.addEventListener("change", paint);
const { description, token } = document.getElementById("api").dataset;
SwaggerUIBundle({
  url: description, dom_id: "#api", deepLinking: true, validatorUrl: null, layout: "BaseLayout",
  requestInterceptor: (request) => {
    // A request without an API key uses the session, which requires the session's token.
    if (token && !request.headers.Authorization) request.headers["X-CSRFToken"] = token;
    return request;
  },
});
"""
# The page's scripts come from here alone; its styles and small images are partly written inline.
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline';"
    " img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)
EVENTS_POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; base-uri 'none'; form-action 'self';"
    " frame-ancestors 'none'"
)
_ASSETS = {"swagger-ui.css": "text/css", "swagger-ui-bundle.js": "text/javascript"}


_DESCRIPTION = Answer(
    "Description", {"type": "object", "description": "An OpenAPI or AsyncAPI document."}
)

resource = Resource("docs", template_folder="../description/events_page")


@resource.get("/openapi.json", "Show this description as JSON as JSON", _DESCRIPTION, is_open=True)
def openapi() -> Response:
    return jsonify(state.current().openapi)


@resource.get(
    "/asyncapi.json", "Show the description of the messages as JSON", _DESCRIPTION, is_open=True
)
def asyncapi() -> Response:
    return jsonify(asyncapi_document())


@resource.get("/docs", "Show this description as a page", TEXT, content="text/html", is_open=True)
def page() -> Response:
    return _page(render_template("pages/docs.html"), POLICY)


@resource.get(
    "/docs/events", "Show the messages as a page", TEXT, content="text/html", is_open=True
)
def events() -> Response:
    return _page(events_page.html(), EVENTS_POLICY)


def _page(html: str, policy: str) -> Response:
    headers = {"Content-Security-Policy": policy}
    return Response(html, headers=headers, content_type="text/html; charset=utf-8")


@resource.get("/docs/<name>", "Fetch a file of these pages", TEXT, content="*/*", is_open=True)
def asset(name: str) -> Response:
    """A file of the page, out of the installed packages: nothing is fetched from elsewhere."""
    content: str | bytes
    if name == "start.js":
        content, kind = START, "text/javascript"
    elif name == "events.css":
        content, kind = (files(events_page) / name).read_bytes(), "text/css"
    elif name in _ASSETS:
        content = (files("flask_swagger_ui") / "dist" / name).read_bytes()
        kind = _ASSETS[name]
    else:
        raise NotFound("The page has no such file.")
    return Response(content, headers={"Cache-Control": "max-age=3600"}, content_type=kind)


@resource.get(
    "/problems/<kind>", "Explain a kind of problem", TEXT, content="text/plain", is_open=True
)
def problem(kind: str) -> Response:
    for name, known in KINDS.items():
        if type_uri(name) == f"/problems/{kind}":
            return Response(f"{name}\n\n{known.sentence}\n", mimetype="text/plain")
    raise NotFound("There is no such kind of problem.")
