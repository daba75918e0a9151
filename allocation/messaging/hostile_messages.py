"""Messages that would end the process that reads them are received as invalid ones instead.

It touches private parts of py-amqp: `Message._load_properties` and `abstract_channel.loads`. If
they change, tests/integration/test_hostile_messages.py fails. Only `deliveries` touches others.
"""

import struct
from functools import cache
from typing import Any, NoReturn

from amqp import AMQPError, abstract_channel
from amqp.basic_message import Message
from kombu import compression

DEEPEST_HEADERS = 32
"""Levels of nested tables and lists in the headers of a readable message."""

_UNREADABLE = (ArithmeticError, LookupError, OSError, RecursionError, ValueError, struct.error)
_load_properties = Message._load_properties
_loads = abstract_channel.loads


@cache
def receive_as_invalid() -> None:
    """Change how kombu and py-amqp read messages, for the whole process."""
    # kombu would decompress each body, whatever its size, before a consumer sees the message. With
    # this decoder the body stays compressed, and the message counts as one that can't be decoded.
    for kind in compression.encoders():
        compression.register(compression.get_encoder(kind)[0], _refuse_compressed, kind)
    # py-amqp raises what it can't read of a message out of the consumer's loop: the process ends,
    # the broker delivers the message again, and the next process ends too.
    Message._load_properties = _load_or_note
    abstract_channel.loads = _loads_any_text


def _refuse_compressed(_body: object) -> NoReturn:
    raise ValueError("compressed bodies are not accepted")


def _load_or_note(self: Message, class_id: int, buffer: bytes, offset: int) -> Any:
    """Replace properties that can't be read by a content type that no consumer accepts.

    It gives the reason.
    """
    try:
        end = _load_properties(self, class_id, buffer, offset)
        headers = self.properties.get("application_headers")
        if headers and _depth(headers) > DEEPEST_HEADERS:
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
    """Read a routing key of any bytes: the publisher chose it."""
    try:
        return _loads(format, buffer, offset)
    except UnicodeDecodeError:
        return _loads(format, _AnyText(buffer), offset)
