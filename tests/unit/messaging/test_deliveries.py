"""Messages made of what comes over a socket, in whatever pieces it comes."""

import socket
import ssl
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from types import SimpleNamespace
from typing import Any

import amqp
import pytest
import trustme
from amqp.method_framing import frame_handler, frame_writer
from amqp.serialization import dumps
from amqp.transport import SSLTransport, TCPTransport
from hypothesis import given, settings
from hypothesis import strategies as st

from allocation.messaging.deliveries import AT_ONCE, read_arrived, reader

OWN, OTHER = CHANNELS = (3, 7)
DELIVER = (60, 60)
CONFIRM = (60, 80)
ARGUMENTS = "sLbss"  # consumer tag, delivery tag, redelivered, exchange, routing key
FRAME_MAX = 300
HEARTBEAT = b"\x08\x00\x00\x00\x00\x00\x00\xce"
LIKE_A_DELIVERY = b"\x00\x3c\x00\x3c"  # how the payload of a delivery begins
Seen = tuple[Any, ...]


class Refused(Exception):
    pass


def certificates() -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """For a server and its client."""
    authority = trustme.CA()
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("rabbitmq.test").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class Wire:
    """A broker's end of a socket, and a connection with two open channels at the other end."""

    def __init__(self, *, tls: bool = False) -> None:
        self.seen: list[Seen] = []
        self.on_message: Callable[[amqp.Message], None] = lambda message: None
        self._far, near = socket.socketpair()
        transport = SSLTransport("unused:5671") if tls else TCPTransport("unused:5672")
        transport.sock = near
        if tls:
            server, client = certificates()
            far = server.wrap_socket(self._far, server_side=True, do_handshake_on_connect=False)
            shaking_hands = Thread(target=far.do_handshake)
            shaking_hands.start()
            transport.sock = client.wrap_socket(near, server_hostname="rabbitmq.test")
            shaking_hands.join()
            transport._quick_recv = transport.sock.read
            self._far = far
        else:
            transport._setup_transport()
        transport.connected = True
        self.connection = amqp.Connection(frame_max=FRAME_MAX)
        self.connection.transport = transport
        self.connection.on_inbound_frame = frame_handler(
            self.connection, self.connection.on_inbound_method
        )
        self.connection.frame_writer = frame_writer(self.connection, transport)
        for number in CHANNELS:
            self._open(number)
        # What `reader` asks of a kombu.Connection.
        client_side = SimpleNamespace(
            connection=self.connection, transport=SimpleNamespace(driver_name="py-amqp")
        )
        self.read = reader(client_side)

    def _open(self, number: int) -> None:
        channel = amqp.Channel(self.connection, number, auto_decode=number == OTHER)
        channel.is_open = True

        def consume(message: amqp.Message) -> None:
            self.seen.append((number, *described(message)))
            self.on_message(message)
            if message.body == b"refuse":
                raise Refused

        channel.callbacks["tag"] = consume
        channel.events["basic_ack"].add(lambda *args: self.seen.append((number, "ack", *args)))

    def send(self, data: bytes) -> None:
        self._far.sendall(data)

    def close(self) -> None:
        self._far.close()

    def written(self) -> bytes:
        """What the client has written."""
        self._far.settimeout(0)
        with suppress(BlockingIOError):
            return self._far.recv(1_000_000)
        return b""

    def read_all(self, read: Callable[[float], object]) -> None:
        """Read until nothing is left, whatever the consumers raise."""
        with suppress(TimeoutError):
            while True:
                with suppress(Refused):
                    read(0.001)


def described(message: amqp.Message) -> Seen:
    info = message.delivery_info
    return (*(info[name] for name in sorted(info)), message.properties, message.body)


@pytest.fixture(params=[False, True], ids=["plain", "tls"])
def wire(request: pytest.FixtureRequest) -> Wire:
    return Wire(tls=request.param)


def frames(channel: int, method: tuple[int, int], args: bytes, content: Any = None) -> bytes:
    """What py-amqp would write."""
    written: list[bytes] = []
    connection = SimpleNamespace(frame_max=FRAME_MAX, bytes_sent=0)
    transport = SimpleNamespace(write=lambda data: written.append(bytes(data)))
    frame_writer(connection, transport)(1, channel, method, args, content)
    return b"".join(written)


def delivery(
    number: int, body: bytes, channel: int = OWN, tag: str = "tag", **properties: Any
) -> bytes:
    args = dumps(ARGUMENTS, (tag, number, number % 2 == 0, "the exchange", "a.key"))
    return frames(channel, DELIVER, args, amqp.Message(body, **properties))


def confirm(number: int, channel: int = OWN) -> bytes:
    return frames(channel, CONFIRM, dumps("Lb", (number, False)))


def expected(number: int, body: bytes, channel: int = OWN, **properties: Any) -> Seen:
    return (channel, "tag", number, "the exchange", number % 2 == 0, "a.key", properties, body)


def test_all_messages_that_have_arrived_are_read_at_once(wire: Wire) -> None:
    properties: dict[str, Any] = {"content_type": "text/plain", "application_headers": {"x": 1}}
    for number in (1, 2, 3):
        wire.send(delivery(number, b"body", **properties))
    heard = wire.connection.bytes_recv

    more = wire.read(1)

    assert not more
    assert wire.seen == [expected(n, b"body", **properties) for n in (1, 2, 3)]
    assert wire.connection.bytes_recv > heard


def test_more_than_is_read_at_once_is_left_to_the_next_call(wire: Wire) -> None:
    message = delivery(1, b"x" * FRAME_MAX)
    count = 3 * AT_ONCE // len(message)
    for _ in range(count):
        wire.send(message)

    more = wire.read(1)

    assert more
    assert 0 < len(wire.seen) < count
    while read_arrived(wire.read):
        pass
    assert len(wire.seen) == count


def test_without_waiting_it_reads_what_there_is_or_nothing(wire: Wire) -> None:
    assert not read_arrived(wire.read)
    wire.send(delivery(1, b"body"))

    assert not read_arrived(wire.read)

    assert wire.seen == [expected(1, b"body")]


def test_what_is_no_message_is_left_to_py_amqp(wire: Wire) -> None:
    wire.send(HEARTBEAT + confirm(5) + delivery(1, b"own") + delivery(2, b"other", OTHER))

    wire.read(1)

    assert wire.seen == [
        (OWN, "ack", 5, False),
        expected(1, b"own"),
        expected(2, b"other", OTHER),
    ]


def test_a_silent_broker_is_a_timeout_and_the_next_message_is_read(wire: Wire) -> None:
    with pytest.raises(TimeoutError):
        wire.read(0.001)
    wire.send(delivery(1, b"body"))

    wire.read(1)

    assert wire.seen == [expected(1, b"body")]


def test_a_closed_connection_is_lost_after_its_last_message(wire: Wire) -> None:
    wire.send(delivery(1, b"body"))
    wire.close()

    wire.read(1)
    with pytest.raises(ConnectionResetError):
        wire.read(1)

    assert wire.seen == [expected(1, b"body")]
    assert not wire.connection.transport.connected


def test_a_frame_without_its_end_is_refused_as_py_amqp_does(wire: Wire) -> None:
    wire.send(delivery(1, b"body")[:-1] + b"\x00")

    with pytest.raises(amqp.UnexpectedFrame):
        wire.read(1)


def test_a_routing_key_may_be_any_bytes(wire: Wire) -> None:
    wire.send(delivery(1, b"body").replace(b"a.key", b"\xff.key"))

    wire.read(1)

    assert [message[5] for message in wire.seen] == ["�.key"]


def test_a_cancelled_consumer_gets_no_more_messages_and_they_go_back(wire: Wire) -> None:
    cancelled: list[str] = []
    wire.connection.channels[OWN].cancel_callbacks["tag"] = cancelled.append
    cancel = frames(OWN, (60, 30), dumps("sb", ("tag", False)))
    wire.send(delivery(1, b"before") + cancel + delivery(2, b"after") + delivery(3, b"x", OTHER))

    wire.read(1)

    assert cancelled == ["tag"]
    assert wire.seen == [expected(1, b"before"), expected(3, b"x", OTHER)]
    assert wire.written() == frames(OWN, (60, 90), dumps("Lb", (2, True)))  # rejected


def test_if_the_broker_cancels_all_other_messages_are_still_read(wire: Wire) -> None:
    wire.send(frames(OWN, (60, 30), dumps("sb", ("tag", False))) + delivery(1, b"x", OTHER))

    with pytest.raises(amqp.exceptions.ConsumerCancelled):
        wire.read(1)
    wire.read(0)

    assert wire.seen == [expected(1, b"x", OTHER)]


def test_after_a_consumer_failed_the_next_call_goes_on_behind_its_message(wire: Wire) -> None:
    wire.send(delivery(1, b"body") + delivery(2, b"refuse") + delivery(3, b"body"))

    with pytest.raises(Refused):
        wire.read(1)
    more = wire.read(0)  # without the kernel: the bytes are here already

    assert more
    assert wire.seen == [expected(1, b"body"), expected(2, b"refuse"), expected(3, b"body")]


@pytest.mark.parametrize("order", ["om pm oh ob ph pb", "om oh pm ph ob pb", "pm ph om oh pb ob"])
def test_frames_of_two_channels_may_alternate(wire: Wire, order: str) -> None:
    parts = {
        f"{who}{part}": frame
        for who, message in (("o", delivery(1, b"own")), ("p", delivery(2, b"other", OTHER)))
        for part, frame in zip("mhb", split(message), strict=True)
    }
    wire.send(b"".join(parts[name] for name in order.split()))

    wire.read(1)

    assert sorted(wire.seen) == [expected(1, b"own"), expected(2, b"other", OTHER)]


def test_a_frame_of_a_body_may_look_like_a_delivery(wire: Wire) -> None:
    body = LIKE_A_DELIVERY + b"x" * FRAME_MAX
    method, header, *rest = split(delivery(1, body))
    wire.send(method + header)
    wire.read(1)
    wire.send(rest[0] + 2 * HEARTBEAT + b"".join(rest[1:]))

    wire.read(1)

    assert wire.seen == [expected(1, body)]


@pytest.mark.parametrize(
    ("encoding", "seen"),
    [("utf-8", "body"), (None, b"body"), ("no encoding", b"body"), ("\0", b"body")],
)
def test_a_body_becomes_text_if_the_channel_decodes(
    wire: Wire, encoding: str | None, seen: object
) -> None:
    wire.send(delivery(1, b"body", OTHER, content_encoding=encoding))

    wire.read(1)

    assert [message[-1] for message in wire.seen] == [seen]


def test_a_message_for_a_closed_channel_is_an_error_as_by_py_amqp(wire: Wire) -> None:
    wire.connection.channels[OWN].collect()
    wire.send(delivery(1, b"body"))

    with pytest.raises(KeyError):
        wire.read(1)


def declare_in_the_consumer(wire: Wire, rest: bytes) -> Callable[[amqp.Message], None]:
    """A consumer that waits for an answer of the broker, which comes behind other messages."""

    def declare(message: amqp.Message) -> None:
        if message.body == b"declare":
            wire.send(rest)
            found = wire.connection.channels[OWN].queue_declare("queue", passive=True)
            wire.seen.append((OWN, "declared", found.message_count))

    return declare


DECLARED = frames(OWN, (50, 11), dumps("sll", ("queue", 42, 1)))


@pytest.mark.parametrize("cut", [0, 1, 100, 10_000])
def test_a_consumer_may_wait_for_the_broker_while_others_have_arrived(wire: Wire, cut: int) -> None:
    others = delivery(2, b"two") + delivery(3, b"three") + DECLARED + delivery(4, b"four")
    wire.on_message = declare_in_the_consumer(wire, others[cut:])
    wire.send(delivery(1, b"declare") + others[:cut])

    wire.read_all(wire.read)

    # py-amqp reads on inside of the first consumer.
    assert wire.seen == [
        expected(1, b"declare"),
        expected(2, b"two"),
        expected(3, b"three"),
        (OWN, "declared", 42),
        expected(4, b"four"),
    ]


def test_a_consumer_may_close_its_channel(wire: Wire) -> None:
    closed = frames(OWN, (20, 41), b"")
    wire.on_message = lambda message: (
        wire.connection.channels[OWN].close() if message.body == b"close" else None
    )
    wire.send(delivery(1, b"close") + delivery(2, b"late") + closed + delivery(3, b"x", OTHER))

    wire.read(1)

    assert wire.seen == [expected(1, b"close"), expected(3, b"x", OTHER)]


def split(data: bytes) -> Iterable[bytes]:
    """The frames in the data."""
    while data:
        end = int.from_bytes(data[3:7]) + 8
        yield data[:end]
        data = data[end:]


bodies = st.one_of(
    st.just(b"refuse"),
    st.just(b"\xff"),
    st.builds(
        lambda start, size: (start + b"x" * size)[:size],
        st.sampled_from([b"", LIKE_A_DELIVERY]),
        st.integers(0, 3 * FRAME_MAX),
    ),
)
properties = st.fixed_dictionaries(
    {},
    optional={
        "message_id": st.text(max_size=20),
        "content_encoding": st.sampled_from(["utf-8", "binary", "base64", "\0"]),
        "application_headers": st.dictionaries(st.sampled_from("xyz"), st.integers(0, 9)),
    },
)


@st.composite
def streams(draw: st.DrawFn) -> list[bytes]:
    """Frames of two channels, each in its order, with heartbeats between them."""
    number = 0
    waiting: dict[int, deque[bytes]] = {0: deque()}
    for channel in CHANNELS:
        waiting[channel] = deque()
        for _ in range(draw(st.integers(0, 4))):
            number += 1
            if draw(st.integers(0, 4)) == 0:
                waiting[channel] += split(confirm(number, channel))
            else:
                tag = draw(st.sampled_from(["tag", "tag", "tag", "gone"]))
                message = delivery(number, draw(bodies), channel, tag, **draw(properties))
                waiting[channel] += split(message)
    stream = []
    for channel in draw(st.lists(st.sampled_from([0, *CHANNELS]), max_size=20)):
        if channel == 0:
            stream.append(HEARTBEAT)
        elif waiting[channel]:
            stream.append(waiting[channel].popleft())
    return [*stream, *waiting[OWN], *waiting[OTHER]]


@settings(deadline=None)
@given(stream=streams(), data=st.data())
def test_however_the_bytes_are_cut_the_same_comes_as_by_py_amqp_alone(
    stream: list[bytes], data: st.DataObject
) -> None:
    """Also while py-amqp itself reads in between, as for a confirm."""
    sent = b"".join(stream)
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=8).map(sorted), label="cuts")
    by_py_amqp, wire = Wire(), Wire()
    by_py_amqp.send(sent)
    by_py_amqp.read_all(by_py_amqp.connection.blocking_read)

    for start, end in zip([0, *cuts], [*cuts, len(sent)], strict=True):
        if start == end:
            continue
        wire.send(sent[start:end])
        if data.draw(st.booleans(), label="py-amqp reads a frame first"):
            with suppress(TimeoutError, Refused):
                wire.connection.blocking_read(0.001)
        wire.read_all(wire.read)

    assert wire.seen == by_py_amqp.seen
    assert wire.written() == by_py_amqp.written()
