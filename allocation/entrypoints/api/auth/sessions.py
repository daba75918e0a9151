"""Sessions: a signed cookie names the key, and is valid as long as the key is."""

import hashlib
import hmac
import secrets
import time
from datetime import timedelta

from flask import Flask, request, session
from flask.sessions import SecureCookieSessionInterface
from flask_wtf.csrf import CSRFError, CSRFProtect, validate_csrf
from wtforms import ValidationError

from allocation.entrypoints.api.http.problems import Problem
from allocation.settings import Settings

PAGES = {"pages", "stream"}
"""Blueprints that need only a session; all others need a key, or a session and its token."""

LIFETIME = timedelta(hours=12)
"""How long an unused session lasts."""

REFRESHED = 3600
"""Seconds of use after which the cookie is renewed."""

_LABEL = b"allocation session cookies"
_FORMS = {"pages", "login"}


class _Cookies(SecureCookieSessionInterface):
    def get_cookie_secure(self, app: Flask) -> bool:
        # A proxy that ends TLS sets it. A client that forges it harms only itself.
        forwarded = request.headers.get("X-Forwarded-Proto", "")
        return request.is_secure or forwarded.lower() == "https"


def secret(settings: Settings, made: bytes | None) -> bytes:
    """What signs the cookies; all processes of one server share it.

    Several servers share it if they have one ALLOCATION_SESSION_SECRET or ALLOCATION_API_KEY;
    otherwise it is what the server made at its start.
    """
    if settings.session_secret:
        return settings.session_secret.encode()
    if settings.api_key:
        return hmac.digest(settings.api_key.encode(), _LABEL, hashlib.sha256)
    return made or secrets.token_bytes(32)


def register(app: Flask, signed_by: bytes) -> None:
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
        PERMANENT_SESSION_LIFETIME=LIFETIME,
        WTF_CSRF_CHECK_DEFAULT=False,
        WTF_CSRF_TIME_LIMIT=None,  # a token lives as long as the session
        # It would want the Referer, which our pages tell browsers not to send.
        WTF_CSRF_SSL_STRICT=False,
    )
    csrf = CSRFProtect(app)
    app.jinja_env.globals["logged_in"] = lambda: "key" in session

    @app.before_request
    def check() -> None:
        if request.blueprint in _FORMS:
            if "key" in session and time.time() - session["written"] >= REFRESHED:
                session["written"] = int(time.time())
            try:
                csrf.protect()
            except CSRFError as error:
                raise Problem(
                    400,
                    "This form is out of date, or not ours. Load its page again, and try again.",
                ) from error


def key() -> str | None:
    """The name of the key with which the user logged in."""
    named: str | None = session.get("key")
    return named


def has_token(given: str) -> bool:
    """Whether this is the token of the request's session, which only our own pages can read."""
    try:
        validate_csrf(given)
    except ValidationError:
        return False
    return True


def begin(key_name: str) -> None:
    """Log in with the key of this name; nothing of an older session stays."""
    session.clear()
    session.update(key=key_name, written=int(time.time()))
    session.permanent = True


def end() -> None:
    session.clear()
