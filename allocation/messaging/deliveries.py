"""Reads the messages that a broker delivers; from RabbitMQ many with one call of the kernel.

py-amqp reads each frame's header, payload and end by itself, and sets the socket's timeout around
each frame: some twenty calls of the kernel for a message. This module reads all bytes that have
arrived, makes messages of complete deliveries, and passes all other frames to py-amqp.

It relies on what py-amqp does not document: `_read_buffer`, the bytes that its transport has read
and not used, `on_inbound_frame`, and `callbacks`. If they change,
tests/unit/messaging/test_deliveries.py fails.
"""

from collections.abc import Callable
from struct import Struct

import amqp
from kombu import Connection
from kombu.transport.base import StdChannel

AT_ONCE = 65536
"""Bytes that are read from the socket at once, at most."""

Read = Callable[[float], bool]
"""Read messages that have arrived; wait for the first one for so many seconds, at most.

Returns whether more may have arrived. Raises TimeoutError if there is none.
"""

_FRAME = Struct(">BHI")  # type, channel, size; then the payload, and a last byte
_AROUND = _FRAME.size + 1
_KINDS = (1, 2, 3)  # method, header, body
_END = 0xCE
_DELIVER = Struct(">HH").pack(60, 60)
_NUMBER = Struct(">Q")


def reader(connection: Connection, channel: StdChannel) -> Read:
    """Reads what comes over the connection; messages of the channel go to its consumer."""
    if connection.transport.driver_name == "py-amqp":
        return _Reader(connection, channel).read

    def read(seconds: float) -> bool:
        connection.drain_events(timeout=seconds)
        return True

    return read


class _Reader:
    def __init__(self, connection: Connection, channel: amqp.Channel) -> None:
        self._connection: amqp.Connection = connection.connection
        self._transport = self._connection.transport
        self._channel = channel

    def read(self, seconds: float) -> bool:
        with self._transport.having_timeout(seconds):
            arrived = self._transport.sock.recv(AT_ONCE)
        if not arrived:
            self._transport.connected = False
            raise ConnectionResetError("the broker closed the connection")
        self._connection.bytes_recv += 1  # py-amqp looks whether it changes: the broker is alive
        self._take(self._transport._read_buffer + arrived)
        return len(arrived) == AT_ONCE

    def _take(self, buffer: bytes) -> None:
        """Take all complete frames out of the buffer, and leave the rest to the next call."""
        at = 0
        while at + _AROUND <= len(buffer):
            if end := self._take_delivery(buffer, at):
                at = end
                continue
            _, _, size = _FRAME.unpack_from(buffer, at)
            if at + size + _AROUND > len(buffer):
                break
            # py-amqp may read on while it handles a frame.
            self._transport._read_buffer = buffer[at:]
            self._connection.on_inbound_frame(self._transport.read_frame())
            buffer, at = self._transport._read_buffer, 0
        self._transport._read_buffer = buffer[at:]

    def _take_delivery(self, buffer: bytes, at: int) -> int:
        """Receive the message that begins there; returns where it ends.

        Returns 0 if something else begins there, if a part of the message has not arrived, or if
        its body is empty or has several frames.
        """
        method = at + _FRAME.size
        if buffer[method : method + 4] != _DELIVER:
            return 0
        kind, channel, size = _FRAME.unpack_from(buffer, at)
        header = at + size + _AROUND
        if header + _AROUND > len(buffer):
            return 0
        header_kind, header_channel, header_size = _FRAME.unpack_from(buffer, header)
        body = header + header_size + _AROUND
        if body + _AROUND > len(buffer):
            return 0
        body_kind, body_channel, body_size = _FRAME.unpack_from(buffer, body)
        end = body + body_size + _AROUND
        (size_of_all,) = _NUMBER.unpack_from(buffer, header + _FRAME.size + 4)
        if (
            end > len(buffer)
            or (kind, header_kind, body_kind) != _KINDS
            or not channel == header_channel == body_channel == self._channel.channel_id
            or not buffer[header - 1] == buffer[body - 1] == buffer[end - 1] == _END
            or body_size != size_of_all
        ):
            return 0
        message = amqp.Message(channel=self._channel)
        message.inbound_header(buffer[header + _FRAME.size : body - 1])
        message.body = buffer[body + _FRAME.size : end - 1]
        consumer_tag, place = _short(buffer, method + 4)
        (delivery_tag,) = _NUMBER.unpack_from(buffer, place)
        exchange, routing_key_at = _short(buffer, place + 9)
        message.delivery_info = {
            "consumer_tag": consumer_tag,
            "delivery_tag": delivery_tag,
            "redelivered": bool(buffer[place + 8] & 1),
            "exchange": exchange,
            "routing_key": _short(buffer, routing_key_at)[0],
        }
        self._channel.callbacks[consumer_tag](message)
        return end


def _short(buffer: bytes, at: int) -> tuple[str, int]:
    """The text that begins there, of at most 255 bytes, and where it ends."""
    end = at + 1 + buffer[at]
    # A publisher may choose a routing key of any bytes.
    return buffer[at + 1 : end].decode(errors="replace"), end
