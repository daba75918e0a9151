"""Somebody who listens to /stream over a real connection."""

import http.client
import json
import threading
from contextlib import suppress
from typing import Any, Self

from tests.waiting import eventually


class Ear:
    """Hears in a thread of its own what one stream tells, until either end hangs up."""

    def __init__(
        self, port: int, query: str = "", *, last: str = "", headers: dict[str, str] | None = None
    ) -> None:
        self.heard: list[tuple[str, Any]] = []
        """Name and data of each event, in the order in which they came."""
        self.id = last
        self.lines: list[str] = []
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        told = {"Last-Event-ID": last} if last else {}
        self._connection.request("GET", f"/stream{query}", headers=told | (headers or {}))
        self._socket = self._connection.sock
        self.response = self._connection.getresponse()
        assert self.response.status == 200
        self._thread = threading.Thread(target=self._listen)
        self._thread.start()

    def __enter__(self) -> Self:
        eventually(lambda: self.id or self.over, what="the stream to begin")
        return self

    def __exit__(self, *_: object) -> None:
        self.hang_up()

    @property
    def over(self) -> bool:
        return not self._thread.is_alive()

    @property
    def ids(self) -> list[str]:
        """The ids of the events that came."""
        return [data["id"] for _, data in self.heard if data]

    def wait_for(self, count: int, within: float = 20) -> list[tuple[str, Any]]:
        """The first `count` events, once they are there."""
        eventually(lambda: len(self.heard) >= count, within=within, what=f"{count} events")
        return self.heard[:count]

    def hang_up(self) -> None:
        with suppress(OSError):
            self._socket.shutdown(2)
        self._thread.join()
        self._connection.close()

    def _listen(self) -> None:
        name, data = "", ""
        with suppress(OSError, http.client.HTTPException, ValueError):
            while line := self.response.readline().decode():
                line = line.rstrip("\n")
                self.lines.append(line)
                field, _, value = line.partition(": ")
                if field == "id":
                    self.id = value
                elif field == "event":
                    name = value
                elif field == "data":
                    data = value
                elif not line and data:
                    self.heard.append((name, json.loads(data)))
                    name, data = "", ""
