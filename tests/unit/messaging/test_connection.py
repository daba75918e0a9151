"""Addresses of RabbitMQ: the parts that need no server."""

from itertools import islice
from pathlib import Path

import pytest
from kombu.transport import TRANSPORT_ALIASES

from allocation.messaging import connection
from allocation.messaging.connection import Address, VerifyingTransport, address, each_node


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "ca.pem"
    made.touch()
    return made


def test_a_url_without_a_query_is_kept() -> None:
    url = "amqp://me:secret@one//;amqp://me:secret@two//"

    assert address(url) == Address(url, {})


def test_the_files_that_the_query_names_are_taken_out_of_each_node(file: Path) -> None:
    url = f"amqps://one?cacertfile={file}&certfile={file};amqps://two?keyfile={file}"

    assert address(url) == Address(
        "amqps://one;amqps://two",
        {"ca_certs": str(file), "certfile": str(file), "keyfile": str(file)},
    )


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("amqps://me:secret@host?verify=verify_none", "only an amqps:// URL may have a query"),
        ("amqp://me:secret@host?cacertfile=secret", "only an amqps:// URL may have a query"),
        ("amqps://me:secret@host?secret", "only an amqps:// URL may have a query"),
        ("amqps://me:secret@host?cacertfile=", "cacertfile is not a file"),
        ("amqps://me:secret@host?keyfile=/dev/null", "keyfile is not a file"),
    ],
)
def test_a_query_that_makes_no_sense_is_refused_without_its_password(url: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        address(url)

    assert "secret" not in str(refusal.value)


def test_a_key_needs_a_certificate(file: Path) -> None:
    with pytest.raises(ValueError, match="keyfile requires certfile"):
        address(f"amqps://host?keyfile={file}")


def test_connections_to_each_node_go_round_and_verify_it(file: Path) -> None:
    verified, plain, again = islice(each_node(f"amqps://one?cacertfile={file};amqp://two"), 3)

    assert [made.hostname for made in (verified, plain, again)] == ["one", "two", "one"]
    assert isinstance(verified.transport, VerifyingTransport)
    assert not isinstance(plain.transport, VerifyingTransport)
    assert verified.ssl == {"ca_certs": str(file)}
    assert verified.heartbeat == 0
    assert verified.transport_options["confirm_publish"] is True


def test_connections_to_each_node_change_nothing_of_kombu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TRANSPORT_ALIASES, "amqps", "somebody:else")

    next(each_node("amqps://one"))

    assert TRANSPORT_ALIASES["amqps"] == "somebody:else"


def test_a_connection_of_our_own_verifies_each_node_and_ends_every_wait() -> None:
    made = connection.connect("amqps://one;amqps://two", confirm=True)
    first = made.transport
    made.switch(made.alt[1])

    assert isinstance(first, VerifyingTransport)
    assert isinstance(made.transport, VerifyingTransport)
    assert made.heartbeat == 15
    assert made.transport_options == {
        "confirm_publish": True,
        "read_timeout": 5,
        "write_timeout": 5,
    }


def test_publishes_are_confirmed_only_where_asked_for() -> None:
    assert "confirm_publish" not in connection.connect("amqp://one").transport_options
