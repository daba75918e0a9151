"""A request that arrives in pieces."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from allocation.entrypoints.api.http import parsing, slow_clients
from allocation.entrypoints.api.http.slow_clients import Arrival, Refused

HEAD = b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


def test_a_body_too_large_is_not_asked_for() -> None:
    head = HEAD + b"Expect: 100-continue\r\nContent-Length: %d\r\n\r\n"

    with pytest.raises(Refused) as refused:
        Arrival(head % (2 * parsing.LIMIT))

    assert refused.value.status == 413


def as_chunks(body: bytes, sizes: Sequence[int]) -> bytes:
    made, at = b"", 0
    for size in sizes:
        piece = body[at : at + size]
        if piece:
            made += b"%x;why=not\r\n%s\r\n" % (len(piece), piece)
        at += size
    return made + b"0\r\ntrailer: yes\r\n\r\n"


@given(
    body=st.binary(max_size=300),
    sizes=st.lists(st.integers(1, 100), min_size=3),
    kind=st.sampled_from(["none", "length", "chunked"]),
    cuts=st.lists(st.integers(1, 40), min_size=1),
    behind=st.binary(max_size=20),
)
def test_a_request_is_whole_at_its_last_byte(
    body: bytes, sizes: list[int], kind: str, cuts: list[int], behind: bytes
) -> None:
    request = {
        "none": b"GET / HTTP/1.1\r\nHost: a\r\n\r\n",
        "length": HEAD + b"Content-Length: %d\r\n\r\n%s" % (len(body), body),
        "chunked": HEAD + b"transfer-encoding: chunked\r\n\r\n" + as_chunks(body, sizes),
    }[kind]
    arrival, at, turn = Arrival(), 0, 0

    while at < len(request):
        assert not arrival.is_whole
        step = min(cuts[turn % len(cuts)], len(request) - at)
        last = request[at : at + step] + (behind if at + step == len(request) else b"")
        arrival.add(last)
        at, turn = at + step, turn + 1

    assert arrival.is_whole
    assert arrival.data == request + behind


@pytest.mark.parametrize(
    ("pieces", "status"),
    [
        ([b"GET / HTTP/1.1\r\n", b"x: " + b"y" * slow_clients.HEAD_BYTES], 431),
        ([HEAD + b"Content-Length: 999999999\r\n\r\n"] + [b"x" * parsing.LIMIT] * 9, 413),
        ([HEAD + b"Transfer-Encoding: chunked\r\n\r\n"] + [b"fffff\r\n" + b"x" * 2**20] * 9, 413),
    ],
    ids=["headers", "body", "chunks"],
)
def test_what_is_far_too_large_is_refused_and_not_held(pieces: list[bytes], status: int) -> None:
    arrival, sizes = Arrival(), [0]

    def come() -> None:
        for piece in pieces:
            arrival.add(piece)
            sizes.append(len(arrival.data))

    with pytest.raises(Refused) as refused:
        come()

    assert refused.value.status == status
    assert max(sizes) <= 2 * parsing.LIMIT + 1000
