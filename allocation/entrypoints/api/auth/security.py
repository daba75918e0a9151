"""Who may call: API keys, scopes, and sessions of pages; and the security headers."""

import hashlib
import hmac
import secrets
import time
from collections.abc import Set
from dataclasses import dataclass
from datetime import timedelta
from threading import Lock
from urllib.parse import urlsplit

import structlog
from cachetools import TTLCache
from flask import Flask, Response, g, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_wtf.csrf import CSRFError, CSRFProtect, validate_csrf
from wtforms import ValidationError

from allocation.adapters.sql import api_keys
from allocation.adapters.sql.api_keys import READ, REMEMBERED, SCOPES, WRITE, ApiKeys, KeptKey
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.http.rate_limit import RateLimits
from allocation.settings import Settings, is_loopback

log = structlog.get_logger(__name__)

HEALTH_CHECKS = {"health.alive", "health.ready"}

SESSION_LIFETIME = timedelta(hours=12)
"""How long an unused session lasts."""

SESSION_REFRESHED = 3600
"""Seconds of use after which the cookie is renewed."""

SECURITY_HEADERS = {
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
"""Security headers of every response, as the OWASP Secure Headers Project advises.

Strict-Transport-Security is for the proxy that ends TLS.
"""

_REALM = 'Bearer realm="allocation"'
_READING = {"GET", "HEAD", "OPTIONS"}
_SESSION_PAGES = {"pages", "stream"}
"""Blueprints that need only a session; all others need a key, or a session and its token."""
_FORMS = {"pages", "login"}


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sends a request. `id` is for logs; `name` never changes for one key.

    Both are empty if no key is required.
    """

    id: str
    name: str
    scopes: tuple[str, ...]


_ANYBODY = Caller("", "", SCOPES)


class Guard:
    """Checks keys: that of the settings, with all scopes, and those of the database.

    On loopback no key is required as long as there is none in the settings or the database. A
    revoked key counts: revoking the last one opens nothing.
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

        Raises a 401 if a key is required and none is valid, a 429 after too many wrong ones, and
        the database's own error if it can't be reached.
        """
        if not self.asks():
            return _ANYBODY
        # Parsed by hand: Werkzeug's parser fails on some headers of other schemes.
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
        # Log the id only of a known key: what was mistyped might be the secret.
        log.warning("refused an API key", address=address, key=kept and kept.key.id)
        raise _unauthorized("The API key is not valid.", ', error="invalid_token"')

    def named(self, name: str) -> Caller | None:
        """The caller of this name, as long as the key is valid."""
        if self._given and name == self._all_rights.name:
            return self._all_rights
        kept = self._find(name)
        return Caller(name, name, kept.key.scopes) if kept and not kept.key.revoked_at else None

    def still_admits(self, caller: Caller) -> bool:
        """Whether this caller may still read."""
        if not caller.name:
            return not self.asks()
        known = self.named(caller.name)
        return known is not None and READ in known.scopes

    def asks(self) -> bool:
        """Whether a key is required at all."""
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
    """Require a key of every request of `app`, if there are keys, and set the headers.

    The endpoints `opened` require none. Pages accept a session instead of a key.
    """

    @app.before_request
    def admit() -> None:
        _require_host()
        # A path without a route requires a key too, however it is spelt.
        if request.endpoint in opened:
            return
        address = request.remote_addr or ""
        g.caller = caller = _logged_in(guard) or guard.caller(
            request.headers.get("Authorization", ""), address
        )
        if not caller.name:
            _refuse_foreign_hosts()
        limits.count(caller.name or address)
        check_scope(READ if request.method in _READING else WRITE)

    app.after_request(with_security_headers)
    app.jinja_env.globals["may_write"] = lambda: "caller" in g and WRITE in g.caller.scopes


def check_scope(scope: str) -> None:
    """Raise a 403 unless the caller of this request has the scope."""
    if scope not in g.caller.scopes:
        challenge = f'{_REALM}, error="insufficient_scope", scope="{scope}"'
        raise Problem(
            "missing scope",
            f"This request requires a key with the scope {scope}.",
            headers={"WWW-Authenticate": challenge},
            scope=scope,
        )


def _require_host() -> None:
    """Refuse a request without Host, whatever its HTTP version.

    Health checks by HTTP/1.0 are excepted: some load balancers send them without it.
    """
    is_old = request.environ.get("SERVER_PROTOCOL") == "HTTP/1.0"
    if request.headers.get("Host") or (is_old and request.endpoint in HEALTH_CHECKS):
        return
    raise Problem(400, "The request has no Host header.")


def _logged_in(guard: Guard) -> Caller | None:
    if "Authorization" in request.headers or not guard.asks():
        return None
    # A path without a route may be a mistyped page; its answer is a 404.
    is_page = request.url_rule is None or request.blueprint in _SESSION_PAGES
    # A browser sends the cookie with requests of other sites too, but these neither know the token
    # nor may they send this header.
    if not is_page:
        try:
            validate_csrf(request.headers.get("X-CSRFToken", ""))
        except ValidationError:
            return None
    return guard.named(session["key"]) if "key" in session else None


def _refuse_foreign_hosts() -> None:
    """Without keys, refuse host names of other sites that resolve to 127.0.0.1 (DNS rebinding)."""
    try:
        name = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise Problem(
            403, "Until an API key exists, the service answers requests to localhost only."
        )


def with_security_headers(response: Response) -> Response:
    """The response with SECURITY_HEADERS; headers that it has already stay."""
    said = {name.lower() for name, _ in response.headers}
    response.headers.extend(
        [(name, value) for name, value in SECURITY_HEADERS.items() if name.lower() not in said]
    )
    return response


def _unauthorized(detail: str, parameter: str) -> Problem:
    return Problem(401, detail, headers={"WWW-Authenticate": _REALM + parameter})


class _Cookies(SecureCookieSessionInterface):
    def get_cookie_secure(self, app: Flask) -> bool:
        # A proxy that ends TLS sets it. A client that forges it harms only itself.
        forwarded = request.headers.get("X-Forwarded-Proto", "")
        return request.is_secure or forwarded.lower() == "https"


def session_secret(settings: Settings, made: bytes | None) -> bytes:
    """What signs the cookies; all processes of one server share it.

    Several servers share it if they have one ALLOCATION_SESSION_SECRET or ALLOCATION_API_KEY;
    otherwise it is what the server made at its start.
    """
    if settings.session_secret:
        return settings.session_secret.encode()
    if settings.api_key:
        return hmac.digest(settings.api_key.encode(), b"allocation session cookies", hashlib.sha256)
    return made or secrets.token_bytes(32)


def register_sessions(app: Flask, signed_by: bytes) -> None:
    """Give `app` sessions, and hold each form of its pages against its token."""
    app.secret_key = signed_by
    app.session_interface = _Cookies()
    app.config.update(
        SESSION_COOKIE_NAME="allocation_session",
        SESSION_COOKIE_HTTPONLY=True,
        # Strict would show the login form after a link from an email, and end the session.
        # No GET changes anything, and forms have tokens.
        SESSION_COOKIE_SAMESITE="Lax",
        SESSION_REFRESH_EACH_REQUEST=False,
        PERMANENT_SESSION_LIFETIME=SESSION_LIFETIME,
        WTF_CSRF_CHECK_DEFAULT=False,
        WTF_CSRF_TIME_LIMIT=None,  # a token lives as long as the session
        # It would want the Referer, which our pages tell browsers not to send.
        WTF_CSRF_SSL_STRICT=False,
    )
    csrf = CSRFProtect(app)
    app.jinja_env.globals["logged_in"] = lambda: "key" in session

    @app.before_request
    def check_form() -> None:
        if request.blueprint not in _FORMS:
            return
        if "key" in session and time.time() - session["written"] >= SESSION_REFRESHED:
            session["written"] = int(time.time())
        try:
            csrf.protect()
        except CSRFError as error:
            detail = "The form has expired. Reload its page and try again."
            raise Problem(400, detail) from error


def begin_session(caller: Caller) -> None:
    """Log in with this caller's key; nothing of an older session stays."""
    session.clear()
    session.update(key=caller.name, written=int(time.time()))
    session.permanent = True
