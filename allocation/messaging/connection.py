"""How to connect to RabbitMQ: TLS that verifies, and no endless wait; as in `workers.broker`."""

import ssl
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import parse_qsl

from amqp import AMQPError, abstract_channel
from amqp.basic_message import Message as AmqpMessage
from kombu import Connection, compression
from kombu.transport import TRANSPORT_ALIASES, pyamqp
from kombu.utils.url import maybe_sanitize_url

HEARTBEAT = 15
"""Seconds; the broker gives a sign of life every half of them."""
TIME_LIMITS = {"read_timeout": 5, "write_timeout": 5}
"""kombu's transport options for RabbitMQ, in seconds.

A broker that is short of memory or disk stops reading from whoever publishes, and gives no answer,
not even to a goodbye; but its signs of life go on, and each begins the wait anew. So these are less
than half the heartbeat.
"""

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
        found.url, ssl=found.tls or False, heartbeat=HEARTBEAT, transport_options=dict(TIME_LIMITS)
    )


def without_password(url: str) -> str:
    """The URL for people to read."""
    return ";".join(maybe_sanitize_url(node) for node in url.split(";"))


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


# py-amqp raises what it can't read of a message out of the consumer's loop: the process ends, the
# broker delivers the message again, and the next process ends too. Its private
# `Message._load_properties` and `abstract_channel.loads` are replaced by what never raises; if they
# change, tests/integration/test_hostile_messages.py fails.
DEEPEST_HEADERS = 32
"""Tables and lists within one another; a message with more is as one that can't be read."""

_UNREADABLE = (ArithmeticError, LookupError, OSError, RecursionError, ValueError, struct.error)
_load_properties = AmqpMessage._load_properties
_loads = abstract_channel.loads


def _load_or_note(self: AmqpMessage, class_id: int, buffer: bytes, offset: int) -> Any:
    """Replace properties that can't be read by a content type that no consumer accepts.

    It gives the reason.
    """
    try:
        end = _load_properties(self, class_id, buffer, offset)
        if _depth(self.properties) > DEEPEST_HEADERS + 1:
            raise ValueError("the headers are nested too deeply")
    except (*_UNREADABLE, AMQPError) as error:
        reason = f"unreadable properties ({type(error).__name__}: {error})"
        self.properties = {"content_type": reason.encode()[:200].decode(errors="ignore")}
        return len(buffer)
    return end


def _depth(value: object) -> int:
    deepest, values = 0, [value]
    while values:
        deepest += 1
        values = [
            inner
            for outer in values
            if isinstance(outer, (dict, list))
            for inner in (outer.values() if isinstance(outer, dict) else outer)
        ]
    return deepest - 1


class _AnyText(bytes):
    def __getitem__(self, index: Any) -> Any:
        found = super().__getitem__(index)
        return _AnyText(found) if isinstance(found, bytes) else found

    def decode(self, encoding: str = "utf-8", errors: str = "strict") -> str:
        return super().decode(encoding, "replace")


def _loads_any_text(format: bytes, buffer: bytes, offset: int) -> Any:
    """The routing key that a message was sent with may be any bytes."""
    try:
        return _loads(format, buffer, offset)
    except UnicodeDecodeError:
        return _loads(format, _AnyText(buffer), offset)


AmqpMessage._load_properties = _load_or_note
abstract_channel.loads = _loads_any_text
