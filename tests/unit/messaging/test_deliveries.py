"""Messages made of what comes over a socket, in whatever pieces it comes."""

import socket
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps, loads
from amqp.transport import TCPTransport
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.messaging.deliveries import reader

CHANNEL = 3
DELIVER = (60, 60)
ARGUMENTS = "sLbss"  # consumer tag, delivery tag, redelivered, exchange, routing key
FRAME_MAX = 300
Seen = tuple[Any, ...]


def seen(message: amqp.Message) -> Seen:
    info = message.delivery_info
    return (*(info[name] for name in sorted(info)), message.properties, bytes(message.body or b""))


class Wire:
    """A broker's end of a socket, and the reader at the other end."""

    def __init__(self) -> None:
        self.received: list[Seen] = []
        self.others: list[tuple[int, Any]] = []
        self._far, near = socket.socketpair()
        transport = TCPTransport("unused:5672")
        transport.sock = near
        transport.connected = True
        transport._setup_transport()
        channel = SimpleNamespace(
            channel_id=CHANNEL,
            callbacks={"tag": lambda message: self.received.append(seen(message))},
        )
        self.connection = SimpleNamespace(transport=transport, bytes_recv=0)
        self.connection.on_inbound_frame = frame_handler(self.connection, self._by_py_amqp)
        client = SimpleNamespace(
            connection=self.connection, transport=SimpleNamespace(driver_name="py-amqp")
        )
        self.read = reader(client, channel)

    def send(self, data: bytes) -> None:
        self._far.sendall(data)

    def read_one_frame(self, seconds: float) -> None:
        """As py-amqp does while it waits for an answer of the broker."""
        with self.connection.transport.having_timeout(seconds):
            frame = self.connection.transport.read_frame()
        self.connection.on_inbound_frame(frame)

    def close(self) -> None:
        self._far.close()

    def _by_py_amqp(
        self, channel: int, method: tuple[int, int], payload: bytes, content: amqp.Message | None
    ) -> None:
        if content is None or channel != CHANNEL:
            self.others.append((channel, method))
            return
        names = ("consumer_tag", "delivery_tag", "redelivered", "exchange", "routing_key")
        content.delivery_info = dict(zip(names, loads(ARGUMENTS, payload, 4)[0], strict=True))
        self.received.append(seen(content))


@pytest.fixture
def wire() -> Wire:
    return Wire()


def frames(channel: int, method: tuple[int, int], args: bytes, content: Any = None) -> bytes:
    """What py-amqp would write."""
    written: list[bytes] = []
    connection = SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0)
    transport = SimpleNamespace(write=lambda data: written.append(bytes(data)))
    frame_writer(connection, transport)(1, channel, method, args, content)
    return b"".join(written)


def delivery(number: int, body: bytes, channel: int = CHANNEL, **properties: Any) -> bytes:
    args = dumps(ARGUMENTS, ("tag", number, number % 2 == 0, "the exchange", "a.key"))
    return frames(channel, DELIVER, args, amqp.Message(body, **properties))


def expected(number: int, body: bytes, **properties: Any) -> Seen:
    return ("tag", number, "the exchange", number % 2 == 0, "a.key", properties, body)


HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"


def test_all_messages_that_have_arrived_are_read_at_once(wire: Wire) -> None:
    properties: dict[str, Any] = {"content_type": "text/plain", "application_headers": {"x": 1}}
    wire.send(b"".join(delivery(n, b"body", **properties) for n in (1, 2, 3)))

    more = wire.read(1)

    assert not more
    assert wire.received == [expected(n, b"body", **properties) for n in (1, 2, 3)]
    assert wire.connection.bytes_recv == 1


def test_what_is_no_message_of_the_channel_is_left_to_py_amqp(wire: Wire) -> None:
    confirm = frames(CHANNEL, (60, 80), dumps("Lb", (1, False)))
    wire.send(HEARTBEAT + confirm + delivery(1, b"other", channel=7) + delivery(2, b"own"))

    wire.read(1)

    assert wire.others == [(CHANNEL, (60, 80)), (7, DELIVER)]
    assert wire.received == [expected(2, b"own")]


def test_a_silent_broker_is_a_timeout_and_the_next_message_is_read(wire: Wire) -> None:
    with pytest.raises(TimeoutError):
        wire.read(0.001)
    wire.send(delivery(1, b"body"))

    wire.read(1)

    assert wire.received == [expected(1, b"body")]


def test_a_closed_connection_is_lost(wire: Wire) -> None:
    wire.close()

    with pytest.raises(ConnectionResetError):
        wire.read(1)

    assert not wire.connection.transport.connected


def test_a_frame_without_its_end_is_refused_as_py_amqp_does(wire: Wire) -> None:
    wire.send(delivery(1, b"body")[:-1] + b"\x00")

    with pytest.raises(amqp.UnexpectedFrame):
        wire.read(1)


def test_a_routing_key_may_be_any_bytes(wire: Wire) -> None:
    wire.send(delivery(1, b"body").replace(b"a.key", b"\xff.key"))

    wire.read(1)

    assert [message[4] for message in wire.received] == ["�.key"]


bodies = st.lists(st.integers(0, 3 * FRAME_MAX), min_size=1, max_size=6)


@settings(deadline=None)
@given(sizes=bodies, between=st.lists(st.booleans(), min_size=6, max_size=6), data=st.data())
def test_however_the_bytes_are_cut_every_message_comes_once_and_in_order(
    sizes: list[int], between: list[bool], data: st.DataObject
) -> None:
    """Also while py-amqp itself reads in between, as for a confirm."""
    wire = Wire()
    stream = b"".join(
        delivery(number, b"x" * size, message_id=str(number)) + HEARTBEAT * between[number]
        for number, size in enumerate(sizes)
    )
    cuts = data.draw(st.lists(st.integers(0, len(stream)), max_size=8).map(sorted), label="cuts")

    for start, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        if start == end:
            continue
        wire.send(stream[start:end])
        if data.draw(st.booleans(), label="py-amqp reads a frame first"):
            with suppress(TimeoutError):
                wire.read_one_frame(0.001)
        with suppress(TimeoutError):
            wire.read(0.001)

    assert wire.received == [
        expected(number, b"x" * size, message_id=str(number)) for number, size in enumerate(sizes)
    ]
