"""Reads the messages that a broker delivers; from RabbitMQ many with one call of the kernel.

py-amqp reads each frame's header, payload and end by itself, and sets the socket's timeout around
each frame: some twenty calls of the kernel for a message. This module reads all bytes that have
arrived, makes messages of complete deliveries, and passes all other frames to py-amqp.

It relies on what py-amqp does not document: `_read_buffer`, the bytes that its transport has read
and not used, `on_inbound_frame`, and `callbacks`. If they change,
tests/unit/messaging/test_deliveries.py fails.
"""

from collections.abc import Callable
from contextlib import suppress
from ssl import SSLSocket
from struct import Struct

import amqp
from kombu import Connection

AT_ONCE = 16384
"""Bytes that are read at once, at most. What follows a message is copied: more cost more."""

Read = Callable[[float], bool]
"""Read messages that have arrived; wait for the first one for so many seconds, at most.

Returns whether more may have arrived. Raises TimeoutError if there is none.
"""

_FRAME = Struct(">BHI")  # type, channel, size; then the payload, and a last byte
_AROUND = _FRAME.size + 1
_METHOD, _HEADER, _BODY = 1, 2, 3
_END = 0xCE
_DELIVER = Struct(">HH").pack(60, 60)
_NUMBER = Struct(">Q")


def reader(connection: Connection) -> Read:
    """Reads what comes over the connection, and calls the consumers of its channels.

    It opens the connection; after an outage the new connection needs a new reader. py-amqp may read
    the same connection at any time, as when it waits for an answer.

    If a consumer raises an exception, the next call goes on after the message of that consumer.
    """
    if connection.transport.driver_name == "py-amqp":
        return _Reader(connection.connection).read

    def read(seconds: float) -> bool:
        connection.drain_events(timeout=seconds)
        return True

    return read


def read_arrived(read: Read) -> bool:
    """Read what has arrived, without waiting; returns whether it has to be called again soon.

    It is for event loops, which call it when the socket of the connection is readable:

        read = reader(connection)

        def on_readable():
            if read_arrived(read):
                loop.call_soon(on_readable)

        loop.add_reader(connection.connection.sock, on_readable)

    A loop that is not asked to call again may never do so: bytes that are read already, by the
    reader or by TLS, don't make a socket readable. The same holds if a consumer raises an exception
    that doesn't end the connection.
    """
    try:
        return read(0)
    except TimeoutError:
        return False


class _Reader:
    def __init__(self, connection: amqp.Connection) -> None:
        self._connection = connection
        self._transport = connection.transport

    def read(self, seconds: float) -> bool:
        if self._take():  # what an exception left
            return True
        size = len(self._receive(seconds))
        if not size:
            self._transport.connected = False
            raise ConnectionResetError("the broker closed the connection")
        if isinstance(self._transport.sock, SSLSocket):  # a call returns one TLS record at most
            with suppress(TimeoutError):
                while size < AT_ONCE and (more := self._receive(0)):
                    size += len(more)
        self._take()
        return size >= AT_ONCE

    def _receive(self, seconds: float) -> bytes:
        """Add bytes to the buffer; none if the connection is closed. Raises TimeoutError."""
        with self._transport.having_timeout(seconds):
            arrived: bytes = self._transport.sock.recv(AT_ONCE)
        self._transport._read_buffer += arrived
        self._connection.bytes_recv += 1  # py-amqp looks whether it changes: the broker is alive
        return arrived

    def _take(self) -> bool:
        """Take all complete frames out of the buffer; returns whether there were any.

        While a message or a frame is handled, the buffer begins with what follows it: the handler
        may raise an exception, or wait for an answer, for which py-amqp reads on.
        """
        took = False
        while self._take_delivery() or self._take_frame():
            took = True
        return took

    def _take_frame(self) -> bool:
        buffer = self._transport._read_buffer
        if len(buffer) < _AROUND or len(buffer) < _AROUND + _FRAME.unpack_from(buffer)[2]:
            return False
        self._connection.on_inbound_frame(self._transport.read_frame())
        return True

    def _take_delivery(self) -> bool:
        """Pass on the message with which the buffer begins, if it can be done here.

        It can't if a part of the message has not arrived, if its body is empty or has several
        frames, or if it has no consumer any more.
        """
        buffer = self._transport._read_buffer
        if buffer[_FRAME.size : _FRAME.size + 4] != _DELIVER:
            return False
        kind, number, size = _FRAME.unpack_from(buffer)
        header = size + _AROUND
        if kind != _METHOD or len(buffer) < header + _AROUND:
            return False
        kind, of, size = _FRAME.unpack_from(buffer, header)
        body = header + size + _AROUND
        if (kind, of) != (_HEADER, number) or len(buffer) < body + _AROUND:
            return False
        kind, of, size = _FRAME.unpack_from(buffer, body)
        end = body + size + _AROUND
        if (kind, of) != (_BODY, number) or len(buffer) < end:
            return False
        if not buffer[header - 1] == buffer[body - 1] == buffer[end - 1] == _END:
            return False

        consumer_tag, at = _short(buffer, _FRAME.size + 4)
        channel = (self._connection.channels or {}).get(number)
        if channel is None or consumer_tag not in channel.callbacks:
            return False
        message = amqp.Message(channel=channel)
        message.inbound_header(buffer[header + _FRAME.size : body - 1])
        message.inbound_body(buffer[body + _FRAME.size : end - 1])
        if not message.ready:
            return False
        if channel.auto_decode:
            _decode(message)
        (delivery_tag,) = _NUMBER.unpack_from(buffer, at)
        exchange, routing_key_at = _short(buffer, at + 9)
        message.delivery_info = {
            "consumer_tag": consumer_tag,
            "delivery_tag": delivery_tag,
            "redelivered": bool(buffer[at + 8] & 1),
            "exchange": exchange,
            "routing_key": _short(buffer, routing_key_at)[0],
        }
        self._transport._read_buffer = buffer[end:]
        channel.callbacks[consumer_tag](message)
        return True


def _short(buffer: bytes, at: int) -> tuple[str, int]:
    """The text that begins there, of at most 255 bytes, and where it ends."""
    end = at + 1 + buffer[at]
    # A publisher may choose a routing key of any bytes.
    return buffer[at + 1 : end].decode(errors="replace"), end


def _decode(message: amqp.Message) -> None:
    """Make text of the body, if the message says how and is right."""
    encoding = message.properties.get("content_encoding")
    with suppress(LookupError, ValueError):
        message.body = message.body.decode(encoding) if encoding else message.body
