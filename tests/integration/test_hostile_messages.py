"""Compressed, large and terminal-controlling messages do no harm."""

import json
import struct
import sys
import zlib

import amqp
import pytest
from kombu import Connection
from pytest_celery import CeleryTestSetup

from allocation.adapters.rabbitmq import topology
from allocation.messaging.dead_letters import LARGEST_BODY
from tests.celery_messages import celery_headers
from tests.integration.conftest import BareClient, Service
from tests.waiting import eventually


def letters(service: Service, number: int, queue: str = topology.DEAD) -> None:
    eventually(
        lambda: service.depth(queue) == number, within=30, what=f"{number} letters in {queue}"
    )


@pytest.mark.long
def test_a_compressed_command_becomes_a_dead_letter_as_it_came(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    packed = zlib.compress(bytes(30_000_000))
    headers = celery_headers() | {"compression": "application/x-gzip"}

    client.send_raw(packed, headers=headers)
    letters(service, 1)
    [letter] = service.dead_letters()
    service.run("dead", "replay", letter.id)
    eventually(
        lambda: [each.last for each in service.dead_letters()] not in ([], [letter.last]),
        within=30,
        what="the replayed one refused again",
    )
    [again] = service.dead_letters()

    for each in (letter, again):
        assert (each.id, each.reason) == (headers["id"], "unreadable")
        assert "compressed bodies are not accepted" in each.error
        assert each.message.body == packed
        assert each.message.headers["x-compression"] == "application/x-gzip"
        assert each.cut == 0


@pytest.mark.long
def test_of_a_large_body_a_dead_letter_keeps_the_beginning_and_can_not_be_replayed(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    headers = celery_headers()
    whole = json.dumps([[], {"orderid": "x" * 2_000_000}, {}]).encode()

    client.send_raw(whole, headers=headers)
    letters(service, 1)
    [letter] = service.dead_letters()
    refused = service.run("dead", "replay", letter.id, status=1)
    everything = service.run("dead", "replay", "--all", status=1)

    assert letter.message.body == whole[:LARGEST_BODY].decode()
    assert letter.message.headers["x-cut-bytes"] == letter.cut == len(whole) - LARGEST_BODY
    sentence = f"{letter.id} can't be delivered again: {letter.cut} bytes of its body were cut off"
    assert sentence in refused
    assert sentence in everything
    assert service.depth(topology.DEAD) == 1
    assert f"cut_bytes: {letter.cut}" in service.run("dead", "show", letter.id)
    service.run("dead", "drop", letter.id, "--yes")
    assert service.depth(topology.DEAD) == 0


@pytest.mark.long
def test_nothing_of_a_message_reaches_the_terminal_as_it_is(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    evil = "\x1b[31mred\n[green]up\u202e\x9b2J"
    harmless = "\\x1b[31mred\\n[green]up\\u202e\\x9b2J"
    client.send_raw(
        b"\x1b[31m\n",
        headers=celery_headers(f"allocation.{evil}", id=evil) | {"x-first": evil, evil: evil},
    )
    letters(service, 1)

    shown = {
        "list": service.run("dead", "list"),
        "each": service.run("dead", "list", "--each"),
        "show": service.run("dead", "show", evil),
        "json": service.run("dead", "list", "--json", "--each"),
        "unknown": service.run("dead", "show", f"no {evil}", status=1),
        "worker's log": celery_setup.worker.logs(),
    }

    for where, text in shown.items():
        assert not {"\x1b", "\x9b", "\u202e"} & set(text), where
        assert "\n[green]" not in text, where
    for where in ("list", "each", "show", "unknown", "worker's log"):
        assert harmless in shown[where], where
    [row] = json.loads(shown["json"])
    assert row["name"] == f"allocation.{evil}"


@pytest.mark.long
def test_forged_facts_of_a_dead_letter_stop_no_look_at_it(service: Service) -> None:
    forged: list[dict[str, object]] = [
        {"x-death": "x", "x-attempts": {"a": 1}, "x-cut-bytes": "many"},
        {"x-death": [1, "a"], "x-first": 5, "x-reason": {"a": []}, "x-error": [1]},
        {"x-death": {"reason": "rejected"}, "id": 7, "task": None},
    ]
    with Connection(service.broker_url) as connection:
        for headers in forged:
            connection.Producer().publish(
                b"{}", exchange="", routing_key=topology.DEAD, headers=headers
            )

    rows = json.loads(service.run("dead", "list", "--each", "--json"))

    assert len(rows) == 3


def within(levels: int, kind: bytes) -> bytes:
    """A header table with so many tables, or lists, within one another."""
    inner = b""
    for _ in range(levels):
        inner = (b"\x01a" if kind == b"F" else b"") + kind + struct.pack(">I", len(inner)) + inner
    return inner if kind == b"F" else b"\x01a" + inner


UNREAD = {
    "tables within tables": within(3000, b"F"),
    "lists within lists": within(3000, b"A"),
    "tables that only just can be read": within(40, b"F"),
    "a time that no calendar has": b"\x01aT" + b"\x7f" * 8,
}


class RawMessage(amqp.Message):
    """Any bytes as the header table, and as the correlation id."""

    table = b""
    correlation_id = b"c"

    def _serialize_properties(self) -> bytes:
        kind = b"application/json"
        return b"".join(
            [
                struct.pack(">H", 1 << 15 | 1 << 13 | 1 << 12 | 1 << 10),
                struct.pack(">B", len(kind)) + kind,
                struct.pack(">I", len(self.table)) + self.table,
                b"\x02",
                struct.pack(">B", len(self.correlation_id)) + self.correlation_id,
            ]
        )


@pytest.mark.long
def test_a_message_whose_properties_can_not_be_read_ends_no_process(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """Nor one that was sent with a routing key that is no text."""
    databases = {
        f"{name.upper()}_DATABASE_URL": f"sqlite:///{service.environment['ALLOCATION_STATE_DIR']}"
        f"/{name}.sqlite3"
        for name in ("warehouse", "notification")
    }
    others = {"inbound": service.inbound()} | {
        name: service.start_process(
            [sys.executable, "-m", f"workers.{name}"],
            name=name,
            env=service.environment | databases,
        )
        for name in ("warehouse", "notification")
    }
    queues = (topology.COMMANDS, topology.INBOUND, *topology.SUBSCRIBERS)
    for name in ("warehouse", "notification"):
        others[name].wait_for_log("ready: consuming")

    with Connection(service.broker_url, transport_options={"confirm_publish": True}) as connection:
        channel = connection.default_channel

        def send(queue: str, exchange: str = "", **changes: bytes) -> None:
            message = RawMessage(b"{}")
            message.__dict__.update(changes)
            channel.basic_publish(message, exchange=exchange, routing_key=queue)

        for queue in (*queues, topology.DEAD):
            for table in UNREAD.values():
                send(queue, table=table)
            send(queue, correlation_id=b"\xff")
        # py-amqp writes a lone surrogate as UTF-8 has no letter.
        for exchange in (topology.INBOUND, topology.EVENTS):
            send("\udcff", exchange=exchange)
    good = client.send("allocation.create_batch", batchref="b", sku="LAMP", qty=1, eta=None)

    assert service.outcome(good, within=60)[0] != "pending"
    letters(service, 2 * (len(UNREAD) + 1))
    for queue in queues[1:]:
        letters(service, len(UNREAD) + 2, f"{queue}.dead")
    rows = json.loads(service.run("dead", "list", "--each", "--json"))
    assert len(rows) == 5 * len(UNREAD) + 5 + 3
    assert all(process.running for process in others.values())
    assert "Traceback" not in celery_setup.worker.logs()
