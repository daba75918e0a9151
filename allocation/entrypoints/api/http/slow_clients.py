"""A gunicorn worker whose threads never wait for a client.

gunicorn's own worker reads requests and sends responses in its threads: a few connections that send
or take a byte now and then block all of them. Here the worker's main loop collects each request and
hands it to a thread once it is whole; a response that the client does not take at once is sent by
the main loop too. Every wait for a client ends at a deadline.

It overrides or uses these private parts of gunicorn: `ThreadWorker.accept`, `enqueue_req`,
`finish_request`, `murder_pending`, `nr_conns`, `poller`, `TConn`, `parser.unreader` and
`IterUnreader.iter`. If they change, `tests/api/test_slow_clients.py` fails.
"""

import errno
import re
import select
import socket
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from functools import partial
from selectors import EVENT_READ, EVENT_WRITE
from typing import Any

from gunicorn import util
from gunicorn.http import get_parser
from gunicorn.workers.gthread import TConn, ThreadWorker

from allocation.entrypoints.api.http import parsing

HEAD_SECONDS = 10.0
"""From the connection, or the first byte of a further request, to the end of the headers."""
BODY_SECONDS = 30.0
"""From the end of the headers to the end of the body."""
RESPONSE_SECONDS = 60.0
"""From the end of the application's work to the last byte of a response."""
LINGER_SECONDS = 2.0
"""How long a connection is kept for the client to close it, after its last response."""
STALL_SECONDS = 30.0
"""How long a thread waits for a client that takes nothing of a response larger than the buffer."""

CONNECTIONS = 500
"""Of each process. At this many, the client that has kept it waiting for longest is cut off."""
HELD = 64 * 1024 * 1024
"""Bytes of incomplete requests and unsent responses of each process. More are cut off."""
HEAD_BYTES = 64 * 1024
RESPONSE_BYTES = 4 * 1024 * 1024
"""Bytes that are buffered of one response; a thread waits for the client to take the rest."""
DISCARDED = 8 * parsing.LIMIT
"""Bytes of too large a body that are read and dropped, so that the client reads the response."""

_PIECE = 64 * 1024
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*0*([0-9]+)[ \t]*\r\n", re.IGNORECASE)
_CHUNKED = re.compile(rb"\r\ntransfer-encoding:", re.IGNORECASE)
_CONTINUE = re.compile(rb"\r\nexpect:[ \t]*100-continue[ \t]*(?=\r\n)", re.IGNORECASE)
_HTTP_1_1 = re.compile(rb"[^\r\n]* HTTP/1\.1\r\n")
_SIZE = re.compile(rb"[0-9a-fA-F]{1,15}")
_LONGEST_LINE = 8190
_LONGEST_LENGTH = 18  # digits
_PARSED = 1024  # bytes that gunicorn is given at a time: for each chunk it copies what is left
_CHUNKED_BYTES = 2 * parsing.LIMIT  # of a body that is kept, with the sizes of its chunks


class Refused(Exception):
    """The request is answered without the application, by this status."""

    def __init__(self, status: int, reason: str, detail: str) -> None:
        super().__init__(detail)
        self.status, self.reason, self.detail = status, reason, detail


class Arrival:
    """The bytes of one request so far; detects when it is complete. gunicorn validates it.

    `data` is the request and what followed it, of the body only as much as the application would
    read.
    """

    def __init__(self, data: bytes = b"") -> None:
        self.data = bytearray()
        self.has_head = False
        self.is_whole = False
        self.wants_continue = False
        self._left = 0
        self._chunks: _Chunks | None = None
        self._keep = True
        self._discarded = 0
        self.add(data)

    def add(self, piece: bytes) -> None:
        """Take the next bytes of the connection. Raises Refused."""
        if self.has_head:
            self._add_to_body(piece)
            return
        searched = max(0, len(self.data) - 3)
        self.data += piece
        end = self.data.find(b"\r\n\r\n", searched)
        if end >= 0:
            body = bytes(self.data[end + 4 :])
            del self.data[end + 4 :]
            self._read_head()
            self._add_to_body(body)
        elif len(self.data) > HEAD_BYTES:
            raise Refused(431, "Request Header Fields Too Large", "The headers are too large.")

    def _read_head(self) -> None:
        self.has_head = True
        if _CHUNKED.search(self.data):
            self._chunks = _Chunks()
        elif found := _LENGTH.search(self.data):
            if len(found[1]) > _LONGEST_LENGTH:
                raise _too_large()
            self._left = int(found[1])
            self._keep = self._left <= parsing.READ_AT_MOST
        if _CONTINUE.search(self.data) and _HTTP_1_1.match(self.data):
            if not self._keep:
                raise _too_large()
            self.wants_continue = True
            # gunicorn would send a second answer, when the body is there already.
            self.data = bytearray(_CONTINUE.sub(b"", self.data))

    def _add_to_body(self, piece: bytes) -> None:
        if self._chunks is not None:
            end = self._chunks.end(piece)
            self.is_whole = end is not None
            length = len(piece) if end is None else end
            self._keep = self._keep and len(self.data) + length <= _CHUNKED_BYTES
            if self.is_whole and not self._keep:
                raise _too_large()
        else:
            length = min(len(piece), self._left)
            self._left -= length
            self.is_whole = not self._left
        if self._keep:
            self.data += piece[:length]
        else:
            self._discarded += length
            if self._discarded > DISCARDED:
                raise _too_large()
        self.data += piece[length:]  # of the next request


def _too_large() -> Refused:
    return Refused(413, "Content Too Large", "The body is too large.")


class _Chunks:
    """Finds the end of a chunked body (RFC 9112, section 7.1)."""

    def __init__(self) -> None:
        self._line = b""
        self._skip = 0
        self._is_last = False

    def end(self, piece: bytes) -> int | None:
        """How many bytes of the next `piece` belong to the body, if it ends there.

        A malformed body ends at once, for gunicorn to refuse it.
        """
        at = 0
        while at < len(piece):
            if self._skip:
                step = min(self._skip, len(piece) - at)
                self._skip -= step
                at += step
                continue
            newline = piece.find(b"\n", at)
            line = self._line + piece[at : newline if newline >= 0 else len(piece)]
            if len(line) > _LONGEST_LINE:
                return len(piece)
            if newline < 0:
                self._line = line
                return None
            self._line, at = b"", newline + 1
            line = line.rstrip(b"\r")
            if self._is_last:
                if not line:
                    return at
            elif size := _SIZE.fullmatch(line.partition(b";")[0].rstrip(b" \t")):
                self._is_last = int(size[0], 16) == 0
                self._skip = 0 if self._is_last else int(size[0], 16) + 2
            else:
                return len(piece)
        return None


class ClientSocket(socket.socket):
    """Never blocks, whatever gunicorn asks of it: what the client does not take yet is held."""

    may_hold = RESPONSE_BYTES
    """Bytes that `sendall` leaves to the main loop; with more it waits."""

    def __init__(self, accepted: socket.socket) -> None:
        family, kind, protocol = accepted.family, accepted.type, accepted.proto
        super().__init__(family, kind, protocol, fileno=accepted.detach())
        super().setblocking(False)
        self.unsent = bytearray()

    def setblocking(self, flag: bool) -> None:
        pass

    def settimeout(self, value: float | None) -> None:
        pass

    def sendall(self, data: Any, flags: int = 0) -> None:
        """Send as much as the client takes. Raises TimeoutError if it takes too little."""
        self.unsent += data
        self.flush()
        while len(self.unsent) > self.may_hold:
            poll = select.poll()
            poll.register(self, select.POLLOUT)
            if not poll.poll(STALL_SECONDS * 1000):
                raise TimeoutError("the client did not read the response")
            self.flush()

    def flush(self) -> None:
        """Send as many of the buffered bytes as the client takes now."""
        try:
            while self.unsent:
                with memoryview(self.unsent) as held:
                    sent = self.send(held[: 16 * _PIECE])
                del self.unsent[:sent]
        except BlockingIOError:
            pass

    def receive(self) -> bytes | None:
        """The bytes that came: none at the end of the stream, None if there are none yet."""
        try:
            return self.recv(_PIECE)
        except BlockingIOError:
            return None


class _Client(TConn):
    """A connection, as gunicorn's worker knows it."""

    def __init__(
        self, worker: "BufferingWorker", accepted: socket.socket, address: Any, server: Any
    ) -> None:
        super().__init__(worker.cfg, ClientSocket(accepted), address, server)
        self._worker = worker
        # Threads find each request in the parser's buffer, and the end of the stream behind it.
        self.parser = get_parser(worker.cfg, [], address)
        self.initialized = True
        self.data_ready = True
        self.arrival: Arrival | None = None

    @property
    def held(self) -> int:
        return len(self.sock.unsent) + (len(self.arrival.data) if self.arrival else 0)

    def close(self, graceful: bool = False) -> None:
        # gunicorn would have the main loop wait for the client to close its end.
        if graceful:
            self._worker.linger(self)
        else:
            self.sock.close()


@dataclass(slots=True)
class _Wait:
    """The main loop waits for a client; `when_stopping`: seconds that are left at a stop."""

    deadline: float
    when_stopping: float
    over: Callable[[], None]


class BufferingWorker(ThreadWorker):
    """gunicorn's worker with threads; the main loop waits for slow clients instead of them."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._waits: dict[_Client, _Wait] = {}  # the one that began first comes first
        self._is_stopping = False

    def accept(self, listener: Any) -> None:
        try:
            accepted, address = listener.accept()
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                self._cut_oldest()
            elif error.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                raise
            return
        self.nr_conns += 1
        self.enqueue_req(_Client(self, accepted, address, listener.getsockname()))
        if self.nr_conns >= self.worker_connections:
            self._cut_oldest()

    def enqueue_req(self, client: _Client) -> None:
        """Collect a request, and hand it to a thread once it is whole."""
        client.arrival = Arrival()
        client.sock.may_hold = RESPONSE_BYTES
        buffered = client.parser.unreader.take_buffered()
        self._guarded(client, lambda: self._receive(client, buffered))

    def _receive(self, client: _Client, piece: bytes = b"") -> None:
        arrival = client.arrival
        assert arrival is not None
        had_head = arrival.has_head
        arrival.add(piece)
        if not arrival.is_whole:
            received = client.sock.receive()
            if received == b"":
                self._drop(client)
                return
            arrival.add(received or b"")
        if arrival.is_whole:
            self._forget(client)
            client.arrival = None
            data = bytes(arrival.data)
            pieces = (data[at : at + _PARSED] for at in range(0, len(data), _PARSED))
            client.parser.unreader.iter = pieces
            super().enqueue_req(client)
            return
        if arrival.has_head and not had_head and arrival.wants_continue:
            client.sock.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if client not in self._waits or arrival.has_head != had_head:
            seconds = BODY_SECONDS if arrival.has_head else HEAD_SECONDS
            over = partial(self._too_slow, client)
            self._wait(client, EVENT_READ, partial(self._receive, client), seconds, over=over)

    def _too_slow(self, client: _Client) -> None:
        if not (client.arrival and client.arrival.data):
            self._drop(client)
            return
        raise Refused(408, "Request Timeout", "The request arrived too slowly.")

    def finish_request(self, client: _Client, done: "Future[Any]") -> None:
        """Send what the client has not taken of the response; then go on as gunicorn does."""
        unreader = client.parser.unreader
        unreader.unread(unreader.take_buffered() + b"".join(unreader.iter or ()))
        unreader.iter = None
        is_closed = client.sock.fileno() < 0
        if is_closed or not client.sock.unsent:
            super().finish_request(client, done)
            return
        send = partial(self._send, client, done)
        left = 5 * LINGER_SECONDS
        self._wait(client, EVENT_WRITE, send, RESPONSE_SECONDS, when_stopping=left)

    def _send(self, client: _Client, done: "Future[Any]") -> None:
        client.sock.flush()
        if not client.sock.unsent:
            self._forget(client)
            super().finish_request(client, done)

    def linger(self, client: _Client) -> None:
        """Close our side, and read what still comes: else the client may miss the response."""
        self.nr_conns += 1
        self._guarded(client, lambda: self._close_our_side(client))

    def _close_our_side(self, client: _Client) -> None:
        client.sock.flush()
        client.sock.shutdown(socket.SHUT_WR)
        self._wait(client, EVENT_READ, partial(self._read_rest, client), LINGER_SECONDS)

    def _read_rest(self, client: _Client) -> None:
        if client.sock.receive() == b"":
            self._drop(client)

    def _guarded(self, client: _Client, step: Callable[[], None]) -> None:
        """Do `step`; answer the client that it refuses, drop the one whose connection is broken."""
        try:
            try:
                step()
            except Refused as refusal:
                client.arrival = None
                util.write_error(client.sock, refusal.status, refusal.reason, refusal.detail)
                self._forget(client)
                self._close_our_side(client)
        except OSError:
            self._drop(client)

    def murder_pending(self) -> None:
        """Cut off the clients that are too slow; gunicorn calls this about once a second."""
        super().murder_pending()
        now = time.monotonic()
        if not self.alive and not self._is_stopping:
            self._is_stopping = True
            for wait in self._waits.values():
                wait.deadline = min(wait.deadline, now + wait.when_stopping)
        for client, wait in list(self._waits.items()):
            if now >= wait.deadline and self._waits.get(client) is wait:
                self._guarded(client, wait.over)
        while self._waits and sum(client.held for client in self._waits) > HELD:
            self._cut_oldest()

    def _cut_oldest(self) -> None:
        if self._waits:
            self._drop(next(iter(self._waits)))

    def _wait(
        self,
        client: _Client,
        event: int,
        go_on: Callable[[], None],
        seconds: float,
        *,
        when_stopping: float | None = None,
        over: Callable[[], None] | None = None,
    ) -> None:
        """Call `go_on` whenever the client is ready, until `_forget`; after `seconds`, `over`.

        Unless given otherwise, a stop leaves LINGER_SECONDS, and the client is dropped in the end.
        """
        left = LINGER_SECONDS if when_stopping is None else when_stopping
        if self._is_stopping:
            seconds = min(seconds, left)
        change = self.poller.modify if self._waits.pop(client, None) else self.poller.register
        deadline = time.monotonic() + seconds
        self._waits[client] = _Wait(deadline, left, over or partial(self._drop, client))
        change(client.sock, event, lambda _socket: self._guarded(client, go_on))

    def _forget(self, client: _Client) -> None:
        if self._waits.pop(client, None):
            self.poller.unregister(client.sock)

    def _drop(self, client: _Client) -> None:
        self._forget(client)
        self.nr_conns -= 1
        client.sock.close()
