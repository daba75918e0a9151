"""A TCP proxy of the test's own: it cuts, holds back, slows down and watches what passes."""

import socket
import threading
import time
from collections.abc import Callable, Sequence
from urllib.parse import urlsplit, urlunsplit

from tests.servers.ports import LOOPBACK

Address = tuple[str, int]
CHUNK = 65_536


class Flow:
    """One direction of every connection: passes on, holds back, or lets trickle."""

    def __init__(self) -> None:
        self._open = threading.Event()
        self._open.set()
        self.trickling = False
        self.held = 0
        self.passed = 0

    def hold(self) -> None:
        """Keep everything back: a black hole while it lasts."""
        self.held = 0
        self._open.clear()

    def let_go(self) -> None:
        """Pass on, what was held first."""
        self._open.set()

    def wait(self, size: int) -> None:
        """Return when `size` bytes may pass."""
        if not self._open.is_set():
            self.held += size
            self._open.wait()
        self.passed += size


class Link:
    """One connection through the proxy."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.client = client
        self.server = server
        self.cut = threading.Event()

    def close(self) -> None:
        """Close both ends at once."""
        self.cut.set()
        for end in (self.client, self.server):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass  # it is closed already
            end.close()


class Proxy:
    """Listens on loopback and connects each client to the first of the targets that answers.

    `watch(link, data, to_server)` sees each chunk before it passes; what it returns passes instead.
    """

    def __init__(
        self,
        url: str,
        targets: Sequence[Address] = (),
        watch: Callable[[Link, bytes, bool], bytes] | None = None,
    ) -> None:
        """`url` is the server's; `self.url` is the same through the proxy."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        assert parts.port is not None
        self._targets = list(targets) or [(parts.hostname, parts.port)]
        self._watch = watch
        self.to_server, self.to_client = Flow(), Flow()
        self.links: list[Link] = []
        self.connections = 0
        self._listener = socket.create_server((LOOPBACK, 0))
        port = self._listener.getsockname()[1]
        user = parts.netloc.rpartition("@")[0]
        self.url = urlunsplit(parts._replace(netloc=f"{user}@{LOOPBACK}:{port}"))
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def hold(self) -> None:
        """Hold both directions: nothing arrives, nobody is told."""
        self.to_server.hold()
        self.to_client.hold()

    def let_go(self) -> None:
        """Pass on again."""
        self.to_server.let_go()
        self.to_client.let_go()

    def trickle(self, slow: bool) -> None:
        """One byte a second in each direction, or full speed again."""
        self.to_server.trickling = self.to_client.trickling = slow

    def cut(self) -> int:
        """Close every connection; returns how many there were."""
        links, self.links = self.links, []
        for link in links:
            link.close()
        return len(links)

    def close(self) -> None:
        """Listen no more, and close every connection."""
        self._listener.close()
        self.let_go()
        self.trickle(False)
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            server = self._connect()
            if server is None:
                client.close()
                continue
            link = Link(client, server)
            self.connections += 1
            self.links.append(link)
            for source, sink, flow in (
                (client, server, self.to_server),
                (server, client, self.to_client),
            ):
                threading.Thread(
                    target=self._pump, args=(link, source, sink, flow), daemon=True
                ).start()

    def _connect(self) -> socket.socket | None:
        for target in self._targets:
            try:
                return socket.create_connection(target, timeout=2)
            except OSError:
                continue  # the next one may answer
        return None

    def _pump(self, link: Link, source: socket.socket, sink: socket.socket, flow: Flow) -> None:
        source.settimeout(None)
        try:
            while data := source.recv(CHUNK):
                flow.wait(len(data))
                if self._watch:
                    data = self._watch(link, data, sink is link.server)
                while flow.trickling and data and not link.cut.is_set():
                    sink.sendall(data[:1])
                    data = data[1:]
                    time.sleep(1)  # the pace is the fault
                sink.sendall(data)
        except OSError:
            pass  # one end is gone: so is the other, below
        link.close()
        if link in self.links:
            self.links.remove(link)


class Queries:
    """Watches PostgreSQL's protocol: the text of every query, in their order."""

    def __init__(self) -> None:
        self.queries: list[str] = []
        self._unparsed: dict[Link, bytearray] = {}
        self._started: set[Link] = set()

    def __call__(self, link: Link, data: bytes, to_server: bool) -> bytes:
        if to_server:
            self.queries += self.asked(link, data)
        return data

    def asked(self, link: Link, data: bytes) -> list[str]:
        """The queries that are whole with this chunk."""
        rest = self._unparsed.setdefault(link, bytearray())
        rest += data
        messages = self._messages(link, rest)
        return [body.rstrip(b"\0").decode() for kind, body in messages if kind == b"Q"]

    def _messages(self, link: Link, rest: bytearray) -> list[tuple[bytes, bytes]]:
        """The whole messages in `rest`, which are taken off it; the first ones have no kind."""
        found: list[tuple[bytes, bytes]] = []
        while True:
            head = 0 if link not in self._started else 1
            if len(rest) < head + 4:
                return found
            length = int.from_bytes(rest[head : head + 4], "big") + head
            if len(rest) < length:
                return found
            body = bytes(rest[head + 4 : length])
            if head:
                found.append((bytes(rest[:1]), body))
            elif body[:4] == b"\x00\x03\x00\x00":  # the start; before it come requests for TLS
                self._started.add(link)
            del rest[:length]


class Commits(Queries):
    """Cuts connections between a COMMIT and its answer."""

    def __init__(self, every: int) -> None:
        """Cut at each `every`-th COMMIT while `active`."""
        super().__init__()
        self.active = False
        self.cuts = 0
        self._every = every
        self._seen = 0
        self._doomed: set[Link] = set()

    def __call__(self, link: Link, data: bytes, to_server: bool) -> bytes:
        if not to_server:
            if link in self._doomed:
                self._doomed.discard(link)
                self.cuts += 1
                link.close()
                return b""
            return data
        for query in self.asked(link, data):
            # It may come by itself, or end a message that has other statements, too.
            if query.upper().endswith("COMMIT") and self.active:
                self._seen += 1
                if self._seen % self._every == 0:
                    self._doomed.add(link)
        return data
