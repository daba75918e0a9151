"""`examples/vip`, a subscriber written with the messaging kit, as a process of its own."""

import ast
import json
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import pytest
from kombu import Connection, Exchange, Queue

from allocation.adapters.rabbitmq import topology
from tests.e2e.conftest import House
from tests.faults.proxy import Link, Proxy
from tests.integration.conftest import BareClient
from tests.servers.ports import LOOPBACK, free_ports
from tests.servers.processes import ROOT, Process
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.servers.vhosts import Vhosts
from tests.waiting import eventually

pytestmark = pytest.mark.long

VIP = ROOT / "examples" / "vip" / "vip.py"
CONTRACT = ROOT / "allocation" / "contract" / "events"


@dataclass
class Shop:
    """A vip with a database of its own, and whoever else is on its broker."""

    broker_url: str
    vip_url: str
    database: Path
    processes: Callable[..., Process]
    _heard: list[dict[str, Any]] = field(default_factory=list)

    def vip(self, broker_url: str | None = None) -> Process:
        """Start it elsewhere than in the project, as a user of its own, and wait until it hears."""
        process = self.start(broker_url or self.vip_url)
        process.wait_for_log("ready: consuming vip.orders")
        return process

    def start(self, broker_url: str) -> Process:
        environment = {"VIP_BROKER_URL": broker_url, "VIP_DATABASE": str(self.database)}
        command = [sys.executable, VIP]
        return self.processes(command, name="vip", env=environment, cwd=self.database.parent)

    def tell(self, body: object, **properties: Any) -> None:
        """Tell every subscriber; `body` may be bytes."""
        with self.connection() as connection:
            connection.Producer().publish(
                body if isinstance(body, bytes) else json.dumps(body),
                exchange="allocation.events",
                routing_key="",
                content_type="application/cloudevents+json",
                **{"content_encoding": "utf-8"} | properties,
            )

    def confirm(self, customer: str | None, *orders: str) -> None:
        """Tell of stock promised to these orders."""
        for orderid in orders:
            self.tell(event("allocated", orderid=orderid, customer=customer))

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds in the vip's database."""
        with closing(sqlite3.connect(self.database)) as database:
            return database.execute(query).fetchall()

    def taken(self, orderid: str) -> bool:
        """Whether the order is noted: what came before it in the queue has had its effect too."""
        return any(row == (orderid,) for row in self.rows("SELECT orderid FROM orders"))

    def wait_until_taken(self) -> None:
        """Wait until everything told so far has had its effect, and promotions are told."""
        # The second is taken after what came of the first, and of all before it, is told.
        for _ in range(2):
            last = f"last-{uuid4()}"
            self.confirm(f"customer-of-{last}", last)
            eventually(partial(self.taken, last), within=20, what=f"the order {last}")

    def connection(self) -> Connection:
        return Connection(self.broker_url, transport_options={"confirm_publish": True})

    def listen(self) -> None:
        """Begin to hear what the vip tells."""
        with self.connection() as connection:
            self._ears(connection).declare()

    def heard(self) -> list[dict[str, Any]]:
        """Everything that the vip told since."""
        with self.connection() as connection:
            ears = self._ears(connection)
            while message := ears.get(no_ack=True):
                assert message.content_type == "application/cloudevents+json"
                assert message.delivery_info["exchange"] == "vip.events"
                assert message.properties["delivery_mode"] == 2
                self._heard.append(json.loads(message.body))
        return self._heard

    def depth(self, queue: str) -> int | None:
        with self.connection() as connection:
            return topology.depth(connection, queue)

    def _ears(self, connection: Connection) -> Any:
        exchange = Exchange("vip.events", type="fanout", durable=True)
        return Queue("ears", exchange, durable=True)(connection.channel())


def event(name: str, **data: object) -> dict[str, Any]:
    """The contract's example of an event with an id of its own, and with changes to its data."""
    example = json.loads((CONTRACT / f"allocation.{name}.v1.example.json").read_text())
    return example | {"id": str(uuid4()), "data": example["data"] | data}


@pytest.fixture
def shop(
    rabbitmq: Vhosts,
    broker_url: str,
    tmp_path: Path,
    processes: Callable[..., Process],
) -> Iterator[Shop]:
    """The vip's user may configure what is called vip, and read Allocation's events besides."""
    with Connection(broker_url) as connection:
        topology.declare(connection)
    user, password, parts = f"vip-{token_hex(4)}", token_hex(16), urlsplit(broker_url)
    rabbitmq.api("PUT", f"/api/users/{user}", {"password": password, "tags": ""})
    rabbitmq.api(
        "PUT",
        f"/api/permissions{parts.path}/{user}",
        {"configure": r"vip\..+", "write": r"vip\..+", "read": r"vip\..+|allocation\.events"},
    )
    vip_url = f"amqp://{user}:{password}@{parts.hostname}:{parts.port}{parts.path}"
    shop = Shop(broker_url, vip_url, tmp_path / "vip.db", processes)
    shop.listen()
    yield shop
    rabbitmq.api("DELETE", f"/api/users/{user}")


def test_the_third_confirmed_order_promotes_once_though_every_event_comes_twice(
    house: House, shop: Shop
) -> None:
    """Over HTTP; a line that moved and an order of two lines count once."""
    shop.vip()
    for batchref, sku, qty in (("b1", "LAMP", 10), ("b2", "LAMP", 10), ("b3", "VASE", 10)):
        batch = {"batchref": batchref, "sku": sku, "qty": qty}
        assert house.do("POST", "/v1/batches", batch)[0] == 201
    lines = [
        ("ann-1", "LAMP", "ann"),
        ("ann-1", "VASE", "ann"),
        ("bob-1", "VASE", "bob"),
        ("ann-2", "LAMP", "ann"),
    ]
    for orderid, sku, customer in lines:
        order = {"orderid": orderid, "sku": sku, "qty": 2, "customer": customer}
        assert house.do("POST", "/v1/allocations", order)[0] == 201
    assert house.do("PATCH", "/v1/batches/b1", {"qty": 2})[0] == 200

    def moved() -> bool:
        [line] = house.ask("GET", "/v1/allocations/ann-2")[1]["lines"]
        return bool(line["batchref"] == "b2")

    eventually(moved, within=20, what="the move of ann-2")
    # Of the moved line's sku: its event comes behind that of the move.
    order = {"orderid": "bob-2", "sku": "LAMP", "qty": 2, "customer": "bob"}
    assert house.do("POST", "/v1/allocations", order)[0] == 201
    eventually(lambda: shop.taken("bob-2"), within=20, what="the last order")
    shop.wait_until_taken()
    assert shop.heard() == []

    order = {"orderid": "ann-3", "sku": "VASE", "qty": 2, "customer": "ann"}
    assert house.do("POST", "/v1/allocations", order)[0] == 201

    eventually(shop.heard, within=20, what="the promotion")
    again = house.run("-m", "allocation", "replay", "--queue", "vip.orders")
    assert again.returncode == 0, again.logs()
    shop.wait_until_taken()
    [promoted] = shop.heard()
    assert promoted["type"] == "customer.promoted.v1"
    assert promoted["specversion"] == "1.0"
    assert (promoted["source"], promoted["subject"]) == ("vip", "ann")
    assert promoted["data"] == {"customer": "ann", "orders": 3}
    bobs = "SELECT orderid FROM orders WHERE customer = 'bob' ORDER BY orderid"
    assert shop.rows(bobs) == [("bob-1",), ("bob-2",)]


def test_a_reserved_order_counts_once_it_is_confirmed(house: House, shop: Shop) -> None:
    """By tasks that another service sends."""
    client = BareClient(shop.broker_url)
    shop.vip()
    client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    for orderid in ("order-1", "order-2"):
        client.send("allocation.allocate", orderid=orderid, sku="LAMP", qty=1, customer="ann")
    reserve = {"orderid": "order-3", "sku": "LAMP", "qty": 1, "ttl": 900, "customer": "ann"}
    reserved = client.send("allocation.reserve", **reserve)
    # The event of this one comes behind that of the reservation, which has the same sku.
    client.send("allocation.allocate", orderid="behind", sku="LAMP", qty=1, customer="bob")
    eventually(lambda: shop.taken("behind"), within=20, what="the order behind")
    shop.wait_until_taken()
    assert house.ask("GET", f"/v1/commands/{reserved}")[1]["status"] == "succeeded"
    assert shop.heard() == []

    client.send("allocation.confirm", orderid="order-3")

    eventually(shop.heard, within=20, what="the promotion")
    assert [promoted["subject"] for promoted in shop.heard()] == ["ann"]


def test_only_different_orders_of_a_known_customer_count(shop: Shop) -> None:
    """Two orders told of again and again, other types, unknown fields, nobody's orders."""
    shop.vip()
    for _ in range(2):
        shop.confirm("ann", "ann-1", "ann-2", "ann-1")
        shop.tell(event("deallocated", orderid="ann-3", customer="ann"))
        shop.tell(event("reserved", orderid="ann-3", customer="ann"))
        shop.tell(event("allocated", orderid="ann-3", customer="ann") | {"type": "a.b.v1"})
    shop.confirm(None, "nobody-1", "nobody-2", "nobody-3")
    without = event("allocated")
    del without["data"]["customer"]
    shop.tell(without)
    shop.tell(event("allocated", orderid="bob-1", customer="bob", new={"deep": [1]}) | {"newer": 1})
    shop.wait_until_taken()

    counted = shop.rows(
        "SELECT customer, orderid FROM orders WHERE customer NOT LIKE 'customer-of-%' ORDER BY 2"
    )

    assert counted == [("ann", "ann-1"), ("ann", "ann-2"), ("bob", "bob-1")]
    assert shop.heard() == []
    assert shop.depth("vip.orders.dead") == 0


def test_an_order_that_could_not_be_committed_comes_again(shop: Shop) -> None:
    """Its file is locked for longer than it waits: it gives the orders back, and connects again."""
    vip = shop.vip()
    with closing(sqlite3.connect(shop.database)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        shop.confirm("ann", "ann-1", "ann-2", "ann-3")
        vip.wait_for_log("database is locked", within=50)
    assert "vip.orders is not being consumed" in vip.logs()

    eventually(shop.heard, within=20, what="the promotion")


@pytest.mark.parametrize("broker_has_it", [False, True], ids=["before", "after"])
def test_a_kill_around_the_publishing_neither_loses_nor_doubles_the_promotion(
    shop: Shop, broker_has_it: bool
) -> None:
    """It is killed between its commit and its publish, or between that and its mark."""
    committed = threading.Event()

    def watch(_: Link, data: bytes, to_server: bool) -> bytes:
        if not (to_server and b"customer.promoted.v1" in data):
            return data
        proxy.to_client.hold()  # no confirm comes back
        committed.set()
        return data if broker_has_it else b""

    proxy = Proxy(shop.vip_url, watch=watch)
    vip = shop.vip(proxy.url)
    shop.confirm("ann", "ann-1", "ann-2", "ann-3")
    assert committed.wait(20)
    if broker_has_it:
        eventually(shop.heard, within=20, what="the promotion at the broker")
    vip.kill()
    proxy.close()
    assert shop.rows("SELECT customer, sent FROM promotions") == [("ann", 0)]
    assert len(shop.heard()) == (1 if broker_has_it else 0)

    shop.vip()

    sent = [("ann", 1)]
    eventually(lambda: shop.rows("SELECT customer, sent FROM promotions") == sent, what="the mark")
    shop.confirm("ann", "ann-1", "ann-2", "ann-3", "ann-4")
    shop.wait_until_taken()
    heard = shop.heard()
    assert len(heard) == (2 if broker_has_it else 1)
    assert all(each == heard[0] for each in heard)
    assert heard[0]["data"] == {"customer": "ann", "orders": 3}


def test_what_nobody_can_read_is_set_aside_and_the_next_event_counts(shop: Shop) -> None:
    """Bytes, broken JSON, wrong types, half characters, a spoilt compression."""
    vip = shop.vip()
    wrong = [
        b"\xff\xfe",
        b"",
        b"[" * 100_000,
        b"null",
        b'{"type": 1}',
        json.dumps(event("allocated") | {"data": None}).encode(),
        json.dumps(event("allocated", orderid=7)).encode(),
        json.dumps(event("allocated", customer=["ann"])).encode(),
        json.dumps(event("allocated", customer="\ud800")).encode(),
        json.dumps(event("allocated", orderid="\ud800")).encode(),
    ]
    for body in wrong:
        shop.tell(body, content_encoding="binary")
    shop.tell(b"flat", content_encoding="binary", headers={"compression": "application/x-gzip"})

    shop.confirm("ann", "ann-1", "ann-2", "ann-3")

    eventually(shop.heard, within=20, what="the promotion")
    eventually(lambda: shop.depth("vip.orders.dead") == len(wrong) + 1, what="the dead letters")
    with shop.connection() as connection:
        channel = connection.channel()
        # By py-amqp, as kombu would unpack them; an empty body comes as text.
        taken = [channel.basic_get("vip.orders.dead", no_ack=True) for _ in (*wrong, "flat")]
    assert {message.headers["x-reason"] for message in taken} == {"unreadable"}
    assert all(message.headers["x-error"] for message in taken)
    assert {message.body or b"" for message in taken} == {*wrong, b"flat"}
    assert vip.stop() == 0
    assert shop.depth("vip.orders") == 0


def test_a_full_queue_of_a_listener_puts_promotions_off_and_no_order(shop: Shop) -> None:
    """They are told once there is room."""
    with shop.connection() as connection:
        exchange = Exchange("vip.events", type="fanout", durable=True)
        limit = {"x-max-length": 1, "x-overflow": "reject-publish"}
        full = Queue("full", exchange, durable=True, queue_arguments=limit)(connection.channel())
        full.declare()
        vip = shop.vip()
        shop.confirm("ann", "ann-1", "ann-2", "ann-3")
        eventually(lambda: shop.depth("full") == 1, what="the first promotion")
        shop.confirm("bob", "bob-1", "bob-2", "bob-3")
        vip.wait_for_log("of a listener is full")
        shop.wait_until_taken()
        assert shop.rows("SELECT customer FROM promotions WHERE NOT sent") == [("bob",)]

        assert json.loads(full.get(no_ack=True).body)["subject"] == "ann"

        message = eventually(lambda: full.get(no_ack=True), what="the second promotion")
    assert json.loads(message.body)["subject"] == "bob"
    unsent = "SELECT customer FROM promotions WHERE NOT sent"
    eventually(lambda: shop.rows(unsent) == [], what="the mark")
    assert len({promoted["id"] for promoted in shop.heard()}) == 2


def test_it_goes_on_after_a_restart_of_the_broker_and_ends_when_asked(
    private_rabbitmq: PrivateRabbitMQ, shop: Shop
) -> None:
    """Also while no broker is there."""
    vip = shop.vip()
    shop.confirm("ann", "ann-1", "ann-2")
    shop.wait_until_taken()

    private_rabbitmq.restart()
    shop.confirm("ann", "ann-3")

    eventually(shop.heard, within=30, what="the promotion")
    assert vip.stop() == 0
    [port] = free_ports(1)
    lonely = shop.start(f"amqp://guest:guest@{LOOPBACK}:{port}//")
    lonely.wait_for_log("not being consumed")
    assert lonely.stop() == 0


def test_the_example_imports_nothing_of_the_service_but_the_messaging_kit() -> None:
    tree = ast.parse(VIP.read_text())

    modules = {
        module
        for node in ast.walk(tree)
        for module in (
            [name.name for name in node.names]
            if isinstance(node, ast.Import)
            else ["." * node.level + (node.module or "")]
            if isinstance(node, ast.ImportFrom)
            else []
        )
    }

    kit = {module for module in modules if module.startswith(("allocation.messaging.", "workers."))}
    roots = {module.partition(".")[0] for module in modules - kit}
    assert roots - sys.stdlib_module_names == {"amqp", "kombu", "sqlalchemy", "structlog"}
    assert len(VIP.read_text().splitlines()) <= 110
