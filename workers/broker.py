"""How to connect to RabbitMQ: TLS that verifies, and no endless wait."""

import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from kombu import Connection, compression
from kombu.transport import TRANSPORT_ALIASES, pyamqp

HEARTBEAT = 15
"""Seconds; the broker gives a sign of life every half of them."""
OPTIONS = {
    # A message counts as sent only when the broker has confirmed it.
    "confirm_publish": True,
    # Seconds. A broker that is short of memory or disk stops reading from whoever publishes, and
    # gives no answer, not even to a goodbye; but its signs of life go on, and each begins the wait
    # anew. So these are less than half the heartbeat.
    "read_timeout": 5,
    "write_timeout": 5,
}
"""kombu's transport options for RabbitMQ."""

_TLS = {"cacertfile": "ca_certs", "certfile": "certfile", "keyfile": "keyfile"}


@dataclass(frozen=True, slots=True)
class Address:
    """`url` as kombu takes it, one node or several; `tls` are the files that its query named."""

    url: str
    tls: dict[str, str]


def address(url: str) -> Address:
    """Take RabbitMQ's own query parameters for TLS out of the URL.

    Raises ValueError, without a word of the URL, when they make no sense.
    """
    if not url.startswith("amqp"):
        return Address(url, {})
    nodes, files = [], {}
    for node in url.split(";"):
        base, _, query = node.partition("?")
        nodes.append(base)
        for name, value in parse_qsl(query, keep_blank_values=True):
            if name not in _TLS or not base.startswith("amqps://"):
                raise ValueError(
                    "the URL may have a query with amqps:// only, of cacertfile, certfile and"
                    " keyfile; a ? in a password is %3F"
                )
            if not Path(value).is_file():
                raise ValueError(f"{name} names no file: {value}")
            files[_TLS[name]] = value
    if "keyfile" in files and "certfile" not in files:
        raise ValueError("keyfile needs a certfile beside it")
    return Address(";".join(nodes), files)


def connect(url: str, transport: str | None = None) -> Connection:
    """A connection that is not open yet; `transport` is kombu's name for an embedded one."""
    if transport:
        return Connection(url, transport=transport)
    found = address(url)
    return Connection(
        found.url, ssl=found.tls or False, heartbeat=HEARTBEAT, transport_options=dict(OPTIONS)
    )


class VerifyingTransport(pyamqp.SSLTransport):
    """The certificate of each node must be signed by a known authority, and be for its name.

    kombu by itself checks no name, or for all nodes that of the first.
    """

    def establish_connection(self) -> Any:
        files = self.client.ssl if isinstance(self.client.ssl, dict) else {}
        name = self.client.hostname
        self.client.ssl = files | {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": name}
        try:
            return super().establish_connection()
        finally:
            # kombu makes an address of `localhost`, for which no certificate is.
            self.client.hostname = name


TRANSPORT_ALIASES["amqps"] = f"{__name__}:{VerifyingTransport.__name__}"


def _refuse_compressed(_body: object) -> NoReturn:
    raise ValueError("compressed bodies are not accepted")


# kombu would decompress each body, whatever its size, before a consumer sees the message. With this
# decoder the body stays compressed, and the message counts as one that can't be decoded.
for _kind in compression.encoders():
    compression.register(compression.get_encoder(_kind)[0], _refuse_compressed, _kind)
