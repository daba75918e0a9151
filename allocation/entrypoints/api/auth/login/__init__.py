"""The form at /login exchanges an API key for a session."""

from flask import Blueprint, Response, render_template, request, session

from allocation.entrypoints.api import state
from allocation.entrypoints.api.auth import security
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.pages.error_pages import POLICY, see_other

OPEN = {"login.show", "login.enter", "login.leave"}
"""Its endpoints: they require no key, as the user has yet to enter one."""


blueprint = Blueprint("login", __name__, template_folder=".")


@blueprint.get("/login")
def show() -> Response:
    if not state.current().guard.asks():
        return see_other(_next())
    return _form()


@blueprint.post("/login")
def enter() -> Response:
    guard = state.current().guard
    if guard.asks():
        try:
            given = request.form.get("key", "").strip().encode("utf-8", "replace")
            caller = guard.opened_by(given, request.remote_addr or "")
        except Problem as problem:
            if problem.status != 401:
                raise
            return _form(problem)
        security.begin_session(caller)
    return see_other(_next())


@blueprint.post("/logout")
def leave() -> Response:
    session.clear()
    return see_other("/login")


def _form(problem: Problem | None = None) -> Response:
    html = render_template("login.html", error=problem and problem.detail, next=_next())
    headers = {"Content-Security-Policy": POLICY, **(problem.headers if problem else {})}
    status = problem.status if problem else 200
    return Response(html, status, headers, content_type="text/html; charset=utf-8")


def _next() -> str:
    """Where to go afterwards: a path on this host, whatever a link to /login may say."""
    there = request.values.get("next", "")
    # Browsers take a backslash for a slash, and drop tabs and line ends.
    plain = there.isprintable() and "\\" not in there
    return there if plain and there.startswith("/") and not there.startswith("//") else "/"
