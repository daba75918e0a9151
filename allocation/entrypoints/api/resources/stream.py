"""GET /stream: every event as it happens, as server-sent events (SSE, the HTML standard's)."""

import re
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import structlog
from flask import Response, g, request
from sqlalchemy import Engine, Row
from sqlalchemy.exc import SQLAlchemyError

from allocation.domain.commands import Violation
from allocation.entrypoints.api import state
from allocation.entrypoints.api.description.schemas import TEXT
from allocation.entrypoints.api.http.parsing import Parameter
from allocation.entrypoints.api.http.problems import invalid
from allocation.entrypoints.api.http.routes import Resource
from allocation.entrypoints.api.http.slow_clients import ClientSocket
from allocation.entrypoints.api.resources.live_events import LiveEvents, NewEvents, StartPosition
from allocation.views import live_events

log = structlog.get_logger(__name__)

BEAT = 15.0
"""Seconds after which a heartbeat is sent."""

LOOK_AT_KEY = 0.5
"""Seconds after which it is checked again whether the client's key is valid."""

RETRY = 2000
"""Milliseconds after which a client whose connection broke comes back."""

SEND_TIMEOUT = 30_000
"""Milliseconds after which a client that takes nothing of what is sent is cut off."""

_STEP = 0.5  # seconds after which it is seen that a client hung up, or that the key was revoked
_HEADERS = {"X-Accel-Buffering": "no"}  # nginx would buffer events before it passes them on

_IDS = {"type": "array", "items": {"type": "string", "minLength": 1, "maxLength": 255}}
_POSITION = {"type": "string", "pattern": "^[0-9]{1,18}$"}  # fewer digits than a BIGINT has
_LAST_EVENT_ID = Parameter(
    "Last-Event-ID",
    "The last `id` that the client received; the stream continues after it.",
    _POSITION,
    kind="header",
)
_OF_ADDRESS = Parameter(
    "lastEventId", "The same as the header `Last-Event-ID`, which takes precedence.", _POSITION
)

resource = Resource("stream")


@resource.get(
    "/stream",
    "Stream events as they happen",
    TEXT,
    content="text/event-stream",
    description="An endless stream of server-sent events. `event` is the name of the type, such"
    " as `allocated`, and `data` is the CloudEvent. `reset` means that some events since"
    " `Last-Event-ID` are no longer stored: read the whole state again.",
    parameters=(
        Parameter("sku", "Only events of these skus.", _IDS),
        Parameter("orderid", "Only events of these orders.", _IDS),
        _OF_ADDRESS,
        _LAST_EVENT_ID,
    ),
)
def stream() -> Response:
    api, caller = state.current(), g.caller
    listener = Listener(
        api.dependencies.engine,
        api.live_events,
        Wanted(frozenset(request.args.getlist("sku")), frozenset(request.args.getlist("orderid"))),
        _reached(),
        _presence(request.environ.get("gunicorn.socket")),
        lambda: api.guard.still_admits(caller),
    )
    api.live_events.enter()
    response = Response(
        listener.text(), headers=_HEADERS, content_type="text/event-stream; charset=utf-8"
    )
    response.call_on_close(api.live_events.leave)
    return response


def _reached() -> int | None:
    """The id that the client received last; the header is newer than the address."""
    given = _LAST_EVENT_ID.given() or _OF_ADDRESS.given()
    if given and not re.fullmatch(_POSITION["pattern"], given):
        raise invalid([Violation("Last-Event-ID", "is not an id that this stream has sent")])
    return int(given) if given else None


def _presence(connection: socket.socket | None) -> Callable[[], bool]:
    """Whether the client is still connected; TCP decides it if the client takes nothing."""
    if connection is None:
        return lambda: True
    if isinstance(connection, ClientSocket):
        connection.may_hold = 0  # a buffered rest would be sent only with the next event
    if hasattr(socket, "TCP_USER_TIMEOUT"):
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, SEND_TIMEOUT)

    def is_connected() -> bool:
        try:
            return connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) != b""
        except BlockingIOError:
            return True
        except OSError:
            return False

    return is_connected


@dataclass(frozen=True, slots=True)
class Wanted:
    """Events of these skus and these orders; an empty set means all."""

    skus: frozenset[str]
    orderids: frozenset[str]

    def has(self, row: Row[Any]) -> bool:
        return (not self.skus or row.sku in self.skus) and (
            not self.orderids or row.orderid in self.orderids
        )


@dataclass(slots=True)
class Listener:
    """One stream. `reached` is the position up to which the client has received every event.

    It is the `id` that is sent. Events sent beyond it are remembered, so that each is sent once.
    """

    engine: Engine
    events: LiveEvents
    wanted: Wanted
    reached: int | None
    is_connected: Callable[[], bool]
    may_read: Callable[[], bool]
    _sent: set[int] = field(default_factory=set, init=False)
    _furthest: int = field(default=0, init=False)
    _last_id: int | None = field(default=None, init=False)
    _next_beat: float = field(default_factory=lambda: time.monotonic() + BEAT, init=False)
    _next_look: float = field(default_factory=lambda: time.monotonic() + LOOK_AT_KEY, init=False)
    _admitted: bool = field(default=True, init=False)
    _begun: bool = field(default=False, init=False)

    def text(self) -> Iterator[str]:
        """The stream, until the process stops, the client goes or its key is no longer valid.

        The first piece opens the stream, so it is sent once the start position is known: a client
        that then reads the state misses nothing between the two.
        """
        while not self._is_over():
            try:
                start = self.events.start_position(_STEP)
                if start is not None:
                    yield from self._catch_up(start)
                    yield from self._follow(start)
            except SQLAlchemyError as error:
                log.warning("a stream waits for the database", error=str(error).partition("\n")[0])
                self.events.pause(_STEP)
            yield from self._beat()

    def _catch_up(self, start: StartPosition) -> Iterator[str]:
        """The events since the client disconnected, or fell behind, until `start`."""
        if self.reached is None:
            # It was opened while the database was away: state that was read since may be too old.
            yield self._reset(start) if self._begun else self._begin(start)
            return
        if self.reached > start.settled and self.reached > self._last_number():
            yield self._reset(start)  # the database is not the one that it was
            return
        position = self.reached
        while rows := self._kept_after(position):
            for row in rows:
                if self._is_over():
                    return
                if row.begins:  # earlier events were pruned
                    yield self._reset(start)
                    return
                is_new = self._is_new(row)
                position = row.position
                self._settle(min(position, start.settled))
                if is_new:
                    yield self._event(row)
            yield from self._beat()
        self._settle(start.settled)
        if not self._begun:
            yield self._begin(start)

    def _follow(self, start: StartPosition) -> Iterator[str]:
        """The events from `start` on, as long as the client keeps up."""
        since: StartPosition | NewEvents = start
        while not self._is_over():
            news = self.events.news(since, _STEP)
            if news is not None:
                if news.lost:
                    return
                yield from self._send(news)
                since = news
            yield from self._beat()

    def _send(self, news: NewEvents) -> Iterator[str]:
        rows = [row for row in news.rows if self._is_new(row)]
        for row in rows[:-1]:
            if self._is_over():
                return
            yield self._event(row)
        if self._is_over():
            return
        # With the last one the client has received all that there was.
        self._settle(news.settled)
        if rows:
            yield self._event(rows[-1])
        if (self._last_id or 0) < self._furthest <= (self.reached or 0):
            yield self._message()

    def _is_new(self, row: Row[Any]) -> bool:
        is_unsent = row.position > (self.reached or 0) and row.position not in self._sent
        return is_unsent and self.wanted.has(row)

    def _settle(self, settled: int) -> None:
        self.reached = max(self.reached or 0, settled)
        self._sent = {position for position in self._sent if position > self.reached}

    def _event(self, row: Row[Any]) -> str:
        if row.position > (self.reached or 0):
            self._sent.add(row.position)
        self._furthest = max(self._furthest, row.position)
        name = row.name.removeprefix("allocation.").rpartition(".v")[0]
        # One line: in JSON a line end outside a string means nothing.
        body = row.body.replace("\r", " ").replace("\n", " ")
        return self._message(f"event: {name}", f"data: {body}")

    def _begin(self, start: StartPosition) -> str:
        self._settle(start.settled)
        return self._message(": from here on")

    def _reset(self, start: StartPosition) -> str:
        self.reached = start.settled
        self._sent.clear()
        return self._message("event: reset", "data: {}")

    def _beat(self) -> Iterator[str]:
        if time.monotonic() >= self._next_beat:
            self._next_beat = time.monotonic() + BEAT
            yield self._message(":")

    def _is_over(self) -> bool:
        return self.events.stopped or not self.is_connected() or not self._is_admitted()

    def _is_admitted(self) -> bool:
        if self._admitted and time.monotonic() >= self._next_look:
            self._next_look = time.monotonic() + LOOK_AT_KEY
            with suppress(SQLAlchemyError):  # a database that is down ends no stream
                self._admitted = self.may_read()
        return self._admitted

    def _message(self, *lines: str) -> str:
        if self.reached is not None:
            self._last_id = self.reached
            lines = (f"id: {self.reached}", *lines)
        if not self._begun:
            self._begun = True
            lines = (f"retry: {RETRY}", *lines)
        return "\n".join([*lines, "", ""])

    def _last_number(self) -> int:
        with self.engine.connect() as connection:
            return live_events.last_number(connection)

    def _kept_after(self, position: int) -> Sequence[Row[Any]]:
        with self.engine.connect() as connection:
            return live_events.kept_after(connection, position, self.wanted.skus)
