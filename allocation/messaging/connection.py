"""How to connect to RabbitMQ: verified TLS, time limits, heartbeats, several nodes."""

import ssl
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from kombu import Connection
from kombu.transport import TRANSPORT_ALIASES, pyamqp
from kombu.utils.url import maybe_sanitize_url

from allocation.messaging import hostile_messages

HEARTBEAT = 15
"""Seconds; the broker sends a heartbeat every half of them."""
TIME_LIMITS = {"read_timeout": 5, "write_timeout": 5}
"""kombu's transport options for RabbitMQ, in seconds.

A broker that is short of memory or disk stops reading from publishers, and answers nothing, not
even a close; but its heartbeats go on, and each begins the wait anew. So these are less than half
the heartbeat.
"""

SPOOL_TRANSPORT = "allocation.adapters.spool:Transport"
"""kombu loads the embedded broker by this name; nothing of it is imported here."""

_CONNECT_TIMEOUT = 5  # seconds, as kombu's
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
                    "only an amqps:// URL may have a query, of cacertfile, certfile and keyfile;"
                    " write a ? in a password as %3F"
                )
            if not Path(value).is_file():
                raise ValueError(f"{name} is not a file: {value}")
            files[_TLS[name]] = value
    if "keyfile" in files and "certfile" not in files:
        raise ValueError("keyfile requires certfile")
    return Address(";".join(nodes), files)


def connect(url: str, transport: str | None = None, *, confirm: bool = False) -> Connection:
    """A connection that is not open yet; `transport` is kombu's name for an embedded broker.

    With `confirm`, each publish waits until the broker has the message.
    """
    if transport:
        return Connection(url, transport=transport)
    prepare_process()
    found = address(url)
    return Connection(
        found.url,
        ssl=found.tls or False,
        heartbeat=HEARTBEAT,
        transport_options=TIME_LIMITS | ({"confirm_publish": True} if confirm else {}),
    )


def prepare_process() -> None:
    """Have all of kombu verify the nodes of amqps:// URLs, and survive hostile messages."""
    TRANSPORT_ALIASES["amqps"] = _VERIFYING
    hostile_messages.receive_as_invalid()


def each_node(
    url: str, *, confirm: bool = True, time_limit: float | None = None
) -> Iterator[Connection]:
    """Endless connections to the nodes of `url` in turn, not open yet.

    With `confirm`, each publish waits until the broker has the message. `time_limit` is in seconds:
    that of connecting, and, instead of TIME_LIMITS, of each read and write.

    For a process of others, in which nothing of kombu is changed. No heartbeats are agreed on:
    nobody would send ours between two calls, and TCP's keepalive has to do.
    """
    found = address(url)
    limits = dict.fromkeys(TIME_LIMITS, time_limit) if time_limit else TIME_LIMITS

    def connection(node: str) -> Connection:
        return Connection(
            node,
            transport=_VERIFYING if node.startswith("amqps:") else None,
            ssl=found.tls or False,
            heartbeat=0,
            connect_timeout=time_limit or _CONNECT_TIMEOUT,
            transport_options={"confirm_publish": confirm, **limits},
        )

    return map(connection, cycle(found.url.split(";")))


def without_password(url: str) -> str:
    """The URL for people to read."""
    return ";".join(maybe_sanitize_url(node) for node in url.split(";"))


class VerifyingTransport(pyamqp.SSLTransport):
    """Requires each node's certificate to be signed by a known authority, for the node's name.

    kombu by itself checks no name, or the first node's name for all nodes.
    """

    def establish_connection(self) -> Any:
        files = self.client.ssl if isinstance(self.client.ssl, dict) else {}
        name = self.client.hostname
        self.client.ssl = files | {"cert_reqs": ssl.CERT_REQUIRED, "server_hostname": name}
        try:
            return super().establish_connection()
        finally:
            # kombu replaces `localhost` by an address, which no certificate names.
            self.client.hostname = name


_VERIFYING = f"{__name__}:{VerifyingTransport.__name__}"
