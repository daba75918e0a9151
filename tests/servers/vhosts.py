"""A RabbitMQ server that is there: makes and drops virtual hosts in it."""

import base64
import json
import urllib.error
import urllib.request
from urllib.parse import quote
from uuid import uuid4

from kombu import Connection


class Vhosts:
    """The virtual hosts of one server, through its management API.

    `url` is the broker's (amqp://), `management` the API's (http://); the user of `url` needs the
    tag `administrator`.
    """

    def __init__(self, url: str, management: str) -> None:
        self.url = url
        parts = Connection(url)
        self.management = management.rstrip("/")
        self._address = f"{parts.hostname}:{parts.port}"
        self._user = f"{quote(parts.userid, safe='')}:{quote(parts.password, safe='')}"
        plain = f"{parts.userid}:{parts.password}".encode()
        self._authorization = f"Basic {base64.b64encode(plain).decode()}"

    def create_vhost(self) -> str:
        """The URL of a new, empty virtual host, in which the user may do everything."""
        name = f"test-{uuid4().hex}"
        self.api("PUT", f"/api/vhosts/{name}")
        return f"amqp://{self._user}@{self._address}/{name}"

    def delete_vhost(self, url: str) -> None:
        """Delete the virtual host at `url` with all that is in it; its connections are closed."""
        self.api("DELETE", f"/api/vhosts/{Connection(url).virtual_host}")

    def api(self, method: str, path: str, body: object = None) -> object:
        """What the management API answers, as read from JSON; raises OSError when it refuses."""
        request = urllib.request.Request(
            self.management + path,
            method=method,
            data=json.dumps(body or {}).encode() if method == "PUT" else None,
            headers={"Authorization": self._authorization, "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = response.read()
        return json.loads(answer) if answer else None

    def answers(self) -> bool:
        """Whether the broker and its management API take requests now."""
        try:
            self.api("GET", "/api/whoami")
            with Connection(self.url, connect_timeout=5) as connection:
                connection.connect()
        except OSError:
            return False
        return True
