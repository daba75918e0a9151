"""Who may ask, and the headers that keep browsers careful."""

import hashlib
import hmac
import time
from collections.abc import Set
from dataclasses import dataclass
from ipaddress import ip_address
from threading import Lock
from urllib.parse import urlsplit

import structlog
from cachetools import TTLCache
from flask import Flask, Response, g, request

from allocation.adapters.sql import api_keys
from allocation.adapters.sql.api_keys import READ, REMEMBERED, SCOPES, WRITE, ApiKeys, KeptKey
from allocation.entrypoints.api.auth import sessions
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.http.rate_limit import RateLimits
from allocation.settings import Settings

log = structlog.get_logger(__name__)

HEALTH_CHECKS = {"health.alive", "health.ready"}

CAREFUL = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=()",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "X-Permitted-Cross-Domain-Policies": "none",
}
"""What every answer tells browsers, as the OWASP Secure Headers Project advises.

Strict-Transport-Security is for whatever ends TLS in front of this.
"""

RATE_LIMIT = 1000
"""Requests per second of one caller, in each process, where others than this machine may ask."""

_REALM = 'Bearer realm="allocation"'
_READING = {"GET", "HEAD", "OPTIONS"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks. `id` is for logs; `name` is the same for all requests with one key, for good.

    Both are empty where no key is asked for.
    """

    id: str
    name: str
    scopes: tuple[str, ...]


_ANYBODY = Caller("", "", SCOPES)


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach a server that listens on `host`."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


def rate_limit(settings: Settings) -> int:
    """Requests per second that a process takes from one caller; 0: any number."""
    if settings.rate_limit is not None:
        return settings.rate_limit
    return 0 if is_loopback(settings.host) else RATE_LIMIT


class Guard:
    """Knows the keys: that of the settings, with all rights, and those of the database.

    On loopback no key is asked for as long as there is none: neither in the settings, nor in the
    database. A key that was revoked counts: revoking the last one opens nothing.
    """

    def __init__(self, settings: Settings, keys: ApiKeys, limits: RateLimits) -> None:
        self._given = settings.api_key.encode()
        self._all_rights = Caller(
            "ALLOCATION_API_KEY", hashlib.sha256(self._given).hexdigest(), SCOPES
        )
        self._keys = keys
        self._limits = limits
        self._asks = bool(self._given) or not is_loopback(settings.host)
        self._look_again = 0.0
        self._found: TTLCache[str, KeptKey | None] = TTLCache(1000, REMEMBERED)
        self._lock = Lock()

    def caller(self, header: str, address: str) -> Caller:
        """Who sends this Authorization header from this address.

        Raises a 401 where a key is asked for and there is no good one, a 429 after too many wrong
        ones; a database that can't be asked raises its own error.
        """
        if not self.asks():
            return _ANYBODY
        # Read by hand: Werkzeug's parser fails on some headers of other schemes.
        scheme, _, given = header.partition(" ")
        # WSGI hands header bytes over as Latin-1.
        text = given.strip().encode("latin-1", "replace")
        if scheme.lower() != "bearer" or not text:
            raise _unauthorized("Send the API key: Authorization: Bearer <key>.", "")
        return self.opened_by(text, address)

    def opened_by(self, text: bytes, address: str) -> Caller:
        """Whose key this is, given from this address; raises as `caller` does."""
        if self._given and hmac.compare_digest(text, self._given):
            return self._all_rights
        found = api_keys.parts(text.decode("utf-8", "replace"))
        kept = self._find(found[0]) if found else None
        if found and kept and kept.opens_with(found[1]):
            return Caller(kept.key.id, kept.key.id, kept.key.scopes)
        self._limits.count_failure(address)
        # The id only of a key that there is: of a mistyped one it might be the secret.
        log.warning("refused an API key", address=address, key=kept and kept.key.id)
        raise _unauthorized("This is no valid API key.", ', error="invalid_token"')

    def named(self, name: str) -> Caller | None:
        """The caller of this name, as long as the key is valid."""
        if self._given and name == self._all_rights.name:
            return self._all_rights
        kept = self._find(name)
        return Caller(name, name, kept.key.scopes) if kept and not kept.key.revoked_at else None

    def still_admits(self, caller: Caller) -> bool:
        """Whether this caller, who was let in to read, would be let in now."""
        if not caller.name:
            return not self.asks()
        known = self.named(caller.name)
        return known is not None and READ in known.scopes

    def asks(self) -> bool:
        """Whether it asks for a key at all."""
        if not self._asks and time.monotonic() >= self._look_again:
            self._asks = self._keys.any_made()
            self._look_again = time.monotonic() + REMEMBERED
        return self._asks

    def _find(self, key_id: str) -> KeptKey | None:
        with self._lock:
            if key_id in self._found:
                return self._found[key_id]
        found = self._keys.find(key_id)
        with self._lock:
            self._found[key_id] = found
        return found


def register(app: Flask, guard: Guard, limits: RateLimits, opened: Set[str]) -> None:
    """Ask every request of `app` for a key, if there are any, and set the headers.

    But for the endpoints `opened`. Pages take a session instead, if no key is sent.
    """

    @app.before_request
    def admit() -> None:
        _require_host()
        # A path that no route knows is closed too: nothing opens by a spelling.
        if request.endpoint in opened:
            return
        address = request.remote_addr or ""
        g.caller = caller = _logged_in(guard) or guard.caller(
            request.headers.get("Authorization", ""), address
        )
        if not caller.name:
            _refuse_strange_names()
        limits.count(caller.name or address)
        check_scope(READ if request.method in _READING else WRITE)

    app.after_request(careful)
    app.jinja_env.globals["may_write"] = lambda: "caller" in g and WRITE in g.caller.scopes


def check_scope(scope: str) -> None:
    """Raise a 403 unless the caller of this request has the scope."""
    if scope not in g.caller.scopes:
        challenge = f'{_REALM}, error="insufficient_scope", scope="{scope}"'
        raise Problem(
            "missing scope",
            f"This takes a key with the scope {scope}.",
            headers={"WWW-Authenticate": challenge},
            scope=scope,
        )


def _require_host() -> None:
    """Refuse a request without Host, as HTTP/1.1 asks for, and older HTTP too.

    Except for health checks by HTTP/1.0, which some load balancers send without it.
    """
    is_old = request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
    if request.headers.get("Host") or (is_old and request.endpoint in HEALTH_CHECKS):
        return
    raise Problem(400, "The request has no Host header.")


def _logged_in(guard: Guard) -> Caller | None:
    if "Authorization" in request.headers or not guard.asks():
        return None
    # What no route knows may be a mistyped page; it only gets to hear so.
    is_page = request.url_rule is None or request.blueprint in sessions.PAGES
    # A browser sends the cookie also with requests of other sites. These don't know the token, and
    # the browser does not let them send this header.
    if not is_page and not sessions.has_token(request.headers.get("X-CSRFToken", "")):
        return None
    name = sessions.key()
    return guard.named(name) if name else None


def _refuse_strange_names() -> None:
    """Where no key is asked for, let no foreign site in by a name that it leads to 127.0.0.1."""
    try:
        name = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise Problem(403, "As long as there is no key, this answers to localhost alone.")


def careful(response: Response) -> Response:
    """The response with every header of CAREFUL; what it says itself about storing stays."""
    said = {name.lower() for name, _ in response.headers}
    response.headers.extend(
        [(name, value) for name, value in CAREFUL.items() if name.lower() not in said]
    )
    return response


def _unauthorized(detail: str, parameter: str) -> Problem:
    return Problem(401, detail, headers={"WWW-Authenticate": _REALM + parameter})
