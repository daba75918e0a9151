"""The two flows of the source chapter, with every process, and every message delivered twice."""

import json
from pathlib import Path
from typing import Any
from uuid import uuid4

import amqp
import pytest
from kombu import Connection

from allocation.adapters.sql import audit
from tests.e2e.conftest import House
from tests.e2e.test_chapter import picks, subjects
from tests.waiting import eventually

pytestmark = pytest.mark.long


def tell(broker_url: str, kind: str, data: dict[str, object]) -> None:
    """What a system without Celery says, twice, by an AMQP client alone."""
    body = {"specversion": "1.0", "id": str(uuid4()), "source": "dock", "type": kind, "data": data}
    with Connection(broker_url) as connection:
        channel = connection.channel()
        for _ in range(2):
            channel.basic_publish(
                amqp.Message(
                    json.dumps(body), content_type="application/cloudevents+json", delivery_mode=2
                ),
                exchange="allocation.inbound",
                routing_key=kind,
            )


def line(house: House, orderid: str) -> dict[str, Any]:
    """The order's one line."""
    [found] = house.ask("GET", f"/v1/allocations/{orderid}")[1]["lines"]
    return dict(found)


def mails(house: House) -> list[str]:
    """The text of each mail."""
    folder = Path(house.environment["ALLOCATION_STATE_DIR"]) / "mails"
    return [mail.read_text() for mail in sorted(folder.glob("*.eml"))]


def books_hold(house: House) -> bool:
    return [proof.promise for proof in audit.run(house.engine) if not proof.holds] == []


def repeat_every_event(house: House) -> None:
    """Have each subscriber hear again all that was told."""
    for queue in ("warehouse.events", "notification.events"):
        assert house.run("-m", "allocation", "replay", "--queue", queue).returncode == 0


def test_from_the_basket_to_the_ramp(house: House) -> None:
    """Reserved, confirmed, picked, dispatched, and off the books, each once."""
    house.do("POST", "/v1/batches", {"batchref": "shelf", "sku": "RED-CHAIR", "qty": 10})
    basket = {"orderid": "order-1", "sku": "RED-CHAIR", "qty": 3, "ttl": 900, "customer": "c-7"}
    status, reserved = house.do("POST", "/v1/reservations", basket)
    assert (status, reserved["status"], reserved["batchref"]) == (201, "reserved", "shelf")
    assert picks(house) == []

    for _ in range(2):
        assert house.do("POST", "/v1/reservations/order-1/confirm")[0] in (200, 409)
    eventually(lambda: picks(house) == [("shelf", "open")], within=20, what="the instruction")
    repeat_every_event(house)
    assert house.run("-m", "workers.warehouse", "dispatch", "order-1").returncode == 0

    eventually(lambda: line(house, "order-1")["status"] == "dispatched", within=20, what="the end")
    repeat_every_event(house)
    status, batch = house.ask("GET", "/v1/batches/shelf")
    assert (batch["qty"], batch["allocated"], batch["available"]) == (7, 0, 7)
    assert house.do("DELETE", "/v1/allocations/order-1/RED-CHAIR")[0] == 409
    eventually(lambda: picks(house) == [("shelf", "dispatched")], within=20, what="the pick")
    assert books_hold(house)


def test_damaged_goods_and_a_late_ship(house: House, broker_url: str) -> None:
    """The younger order moves, is told one new day, and then another; the story is on record."""
    house.do("POST", "/v1/batches", {"batchref": "shelf", "sku": "RED-CHAIR", "qty": 10})
    shipment = {"batchref": "ship", "sku": "RED-CHAIR", "qty": 10, "eta": "2030-01-31"}
    house.do("POST", "/v1/batches", shipment)
    for orderid in ("older", "younger"):
        order = {"orderid": orderid, "sku": "RED-CHAIR", "qty": 5}
        assert house.do("POST", "/v1/allocations", order)[1]["batchref"] == "shelf"

    damage = {"batchref": "shelf", "qty": 4, "reason": "water damage"}
    tell(broker_url, "stock.damaged.v1", damage)
    eventually(lambda: line(house, "younger")["batchref"] == "ship", within=30, what="the move")
    eventually(lambda: len(subjects(house)) == 1, within=20, what="the mail")
    tell(broker_url, "shipment.delayed.v1", {"batchref": "ship", "eta": "2030-03-15"})
    eventually(lambda: line(house, "younger")["eta"] == "2030-03-15", within=30, what="the delay")
    eventually(lambda: len(subjects(house)) == 2, within=20, what="the second mail")
    repeat_every_event(house)

    assert line(house, "older")["batchref"] == "shelf"
    moved, delayed = sorted(mails(house), key=lambda mail: "2030-03-15" in mail)
    assert "2030-01-31" in moved
    assert "2030-01-31" in delayed
    assert "2030-03-15" in delayed
    told = house.ask("GET", "/v1/allocations/younger/RED-CHAIR/explanation")[1]["decisions"]
    assert [
        (each["event"].split(".")[1], each["cause"]["command"], each["began_with"]["command"])
        for each in told
    ] == [
        ("allocated", "allocation.allocate", "allocation.allocate"),
        ("deallocated", "allocation.write_off", "allocation.write_off"),
        ("allocated", "allocation.allocate_waiting", "allocation.write_off"),
        ("promise_changed", "allocation.change_batch_eta", "allocation.change_batch_eta"),
    ]
    assert told[2]["began_with"]["body"] == damage
    assert [each["batchref"] for each in told[2]["considered"]] == ["shelf", "ship"]
    eventually(lambda: books_hold(house), within=20, what="the books to hold")
    assert len(subjects(house)) == 2
