"""Who may ask, and the headers that keep browsers careful."""

import hashlib
import hmac
from dataclasses import dataclass
from ipaddress import ip_address
from threading import Lock

from cachetools import TTLCache
from flask import Flask, Response, g, request

from allocation.adapters.api_keys import READ, SCOPES, WRITE, ApiKey, ApiKeys
from allocation.api.limits import Limits
from allocation.api.problems import Problem
from allocation.settings import Settings

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
REMEMBERED = 2.0
"""Seconds that a process goes on to accept a key after it was revoked."""

_READING = {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: `name` is the same for all requests with one key, and empty without any."""

    name: str
    scopes: tuple[str, ...]


_ANYBODY = Caller("", SCOPES)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Guard:
    """Knows the keys: that of the settings, with all rights, and those of the database.

    On loopback no key is asked for, unless the settings have one.
    """

    def __init__(self, settings: Settings, keys: ApiKeys) -> None:
        self._given = settings.api_key.encode()
        self._keys = keys
        self._asked_for = bool(self._given) or not is_loopback(settings.host)
        self._found: TTLCache[str, ApiKey | None] = TTLCache(1000, REMEMBERED)
        self._lock = Lock()

    def caller(self, header: str) -> Caller | None:
        """Who sends this Authorization header; None when its key is not good.

        Raises a 401 where a key is asked for and there is none; a database that can't be asked
        raises its own error.
        """
        # Read by hand: Werkzeug's parser fails on some headers of other schemes.
        scheme, _, given = header.partition(" ")
        # WSGI hands header bytes over as Latin-1.
        text = given.strip().encode("latin-1", "replace")
        if scheme.lower() != "bearer" or not text:
            if self._asked_for:
                raise _unauthorized("Send the API key: Authorization: Bearer <key>.", "")
            return _ANYBODY
        if self._given and hmac.compare_digest(text, self._given):
            return Caller(hashlib.sha256(self._given).hexdigest(), SCOPES)
        found = self._find(text.decode("utf-8", "replace"))
        return None if found is None else Caller(found.id, found.scopes)

    def _find(self, text: str) -> ApiKey | None:
        with self._lock:
            if text in self._found:
                return self._found[text]
        found = self._keys.find(text)
        with self._lock:
            self._found[text] = found
        return found


def register(app: Flask, guard: Guard, limits: Limits) -> None:
    """Ask every request of `app` for a key, if there are any, and set the headers."""

    @app.before_request
    def admit() -> None:
        # A path that no route knows is closed too: nothing opens by a spelling.
        if request.endpoint in OPEN:
            return
        caller = guard.caller(request.headers.get("Authorization", ""))
        if caller is None:
            limits.count_failure(request.remote_addr or "")
            raise _unauthorized("This is no valid API key.", ', error="invalid_token"')
        limits.count(caller.name)
        scope = READ if request.method in _READING else WRITE
        if scope not in caller.scopes:
            raise Problem(403, f"This takes a key with the scope {scope}.", kind="missing scope")
        g.caller = caller.name

    @app.after_request
    def set_headers(response: Response) -> Response:
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["X-Frame-Options"] = "DENY"
        response.headers["Referrer-Policy"] = "no-referrer"
        response.headers["Cross-Origin-Opener-Policy"] = "same-origin"
        response.headers["Cross-Origin-Resource-Policy"] = "same-origin"
        response.headers["Permissions-Policy"] = "camera=(), geolocation=(), microphone=()"
        response.headers.setdefault("Content-Security-Policy", NOTHING_ELSE)
        response.headers.setdefault("Cache-Control", "no-store")
        return response


def _unauthorized(detail: str, parameter: str) -> Problem:
    challenge = f'Bearer realm="allocation"{parameter}'
    return Problem(401, detail, headers={"WWW-Authenticate": challenge})
