"""Errors of pages are pages; programs get problem details."""

from urllib.parse import quote

from flask import Response, current_app, render_template, request, url_for
from werkzeug.exceptions import RequestEntityTooLarge

from allocation.entrypoints.api.http.problems import Problem

POLICY = (
    "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
_PAGES = {"pages", "login"}


def answer(problem: Problem) -> Response:
    """The problem as a page or as JSON; without a session a page redirects to the login form."""
    if not _wants_page():
        return problem.response()
    if problem.status == 401 and "HX-Request" in request.headers:
        response = page(problem)
        response.headers["HX-Redirect"] = "/login"
        return response
    if problem.status == 401 and request.blueprint != "login":
        there = request.full_path.rstrip("?") if request.method in ("GET", "HEAD") else _form()
        there = there or "/"
        return see_other(f"/login?next={quote(there, safe='/')}")
    return page(problem)


def see_other(path: str) -> Response:
    """Redirect to `path`, by GET."""
    return Response(status=303, headers={"Location": path})


def page(problem: Problem) -> Response:
    """The problem as a page that needs nothing else: neither a script nor the database."""
    html = render_template(
        "error.html", problem=problem, title=problem.body()["title"].capitalize(), form=_form()
    )
    headers = {"Content-Security-Policy": POLICY, **problem.headers}
    return Response(html, problem.status, headers, content_type="text/html; charset=utf-8")


def _form() -> str | None:
    """The address of the page with the submitted form, filled in; None if none was submitted."""
    rule = request.url_rule
    if request.method != "POST" or rule is None or request.blueprint != "pages":
        return None
    for other in current_app.url_map.iter_rules():
        if other.rule == rule.rule and "GET" in (other.methods or ()):
            return url_for(other.endpoint, **(_typed() | (request.view_args or {})))
    return None


def _typed() -> dict[str, str]:
    try:
        fields = request.form.to_dict()
    except RequestEntityTooLarge:
        return {}
    hidden = ("csrf_token", "command_id", "confirmed", "expected_version")
    return {
        name: text
        for name, text in fields.items()
        if text and name not in hidden and not name.startswith("_")  # arguments of url_for
    }


def _wants_page() -> bool:
    if request.blueprint:
        return request.blueprint in _PAGES
    offered = ["application/problem+json", "text/html"]
    best = request.accept_mimetypes.best_match(offered, default=offered[0])
    return best == "text/html" and not request.path.startswith("/v1")
