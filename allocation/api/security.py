"""Who may ask, and the headers that keep browsers careful."""

import hmac
from ipaddress import ip_address

from flask import Flask, Response, request

from allocation.api.problems import Problem

OPEN = {
    "health.alive",
    "health.ready",
    "docs.page",
    "docs.asset",
    "docs.openapi",
    "docs.problem",
}
"""Endpoints that want no key."""

NOTHING_ELSE = "default-src 'none'; frame-ancestors 'none'"


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def register(app: Flask, api_key: str) -> None:
    """Ask every request of `app` for the key, if there is one, and set the headers."""
    if api_key:
        expected = api_key.encode()

        @app.before_request
        def ask_for_the_key() -> None:
            # A path that no route knows is closed too: nothing opens by a spelling.
            if request.endpoint not in OPEN:
                _check_key(expected)

    @app.after_request
    def set_headers(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers.setdefault("Content-Security-Policy", NOTHING_ELSE)
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _check_key(expected: bytes) -> None:
    # Read by hand: Werkzeug's parser fails on some headers of other schemes.
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not given:
        raise _unauthorized("Send the API key: Authorization: Bearer <key>.", "")
    # WSGI hands header bytes over as Latin-1.
    if not hmac.compare_digest(given.strip().encode("latin-1", "replace"), expected):
        raise _unauthorized("This is not the API key.", ', error="invalid_token"')


def _unauthorized(detail: str, parameter: str) -> Problem:
    challenge = f'Bearer realm="allocation"{parameter}'
    return Problem(401, detail, headers={"WWW-Authenticate": challenge})
