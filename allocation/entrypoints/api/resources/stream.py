"""GET /stream: every event as it happens, as server-sent events (the HTML standard's)."""

import socket
from collections.abc import Callable

from flask import Blueprint, Response, g, request

from allocation.contract.codec import Violation
from allocation.entrypoints.api.auth.security import Guard
from allocation.entrypoints.api.http.problems import invalid
from allocation.entrypoints.api.http.slow_clients import ClientSocket
from allocation.entrypoints.api.resources.listener import Listener, Wanted
from allocation.entrypoints.api.resources.live_events import LiveEvents

PATIENCE = 30_000
"""Milliseconds that a listener may take nothing of what is sent, before he is cut off."""

_DIGITS = 18  # less than a BIGINT has
_HEADERS = {"X-Accel-Buffering": "no"}  # nginx would gather events before it hands them on


def blueprint(events: LiveEvents, guard: Guard) -> Blueprint:
    made = Blueprint("stream", __name__)

    @made.get("/stream")
    def stream() -> Response:
        wanted = Wanted(_ids("sku"), _ids("orderid"))
        reached = _reached()
        caller = g.caller
        is_there = _presence(request.environ.get("gunicorn.socket"))
        listener = Listener(events, wanted, reached, is_there, lambda: guard.still_admits(caller))
        events.enter()
        response = Response(
            listener.text(), headers=_HEADERS, content_type="text/event-stream; charset=utf-8"
        )
        response.call_on_close(events.leave)
        return response

    return made


def _ids(name: str) -> frozenset[str]:
    return frozenset(request.args.getlist(name))


def _reached() -> int | None:
    """The id that the listener heard last; that of the header is newer than that of the address."""
    given = request.headers.get("Last-Event-ID") or request.args.get("lastEventId", "")
    if given and not (given.isascii() and given.isdigit() and len(given) <= _DIGITS):
        raise invalid([Violation("Last-Event-ID", "is none that this stream has sent")])
    return int(given) if given else None


def _presence(connection: socket.socket | None) -> Callable[[], bool]:
    """Whether the listener at the other end is there; of one who takes nothing TCP decides it."""
    if connection is None:
        return lambda: True
    if isinstance(connection, ClientSocket):
        connection.may_hold = 0  # a buffered rest would be sent only with the next event
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, PATIENCE)

    def is_there() -> bool:
        try:
            return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    return is_there
