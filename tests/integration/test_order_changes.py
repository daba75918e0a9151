"""Changes of orders and batches by Celery task: the sender reads each outcome from the books."""

from typing import Any

import pytest
from pytest_celery import CeleryTestSetup
from sqlalchemy import select

from allocation.adapters.sql.tables import allocations, batches
from allocation.domain.books import Batch
from tests.integration.conftest import BareClient, Service
from tests.waiting import eventually

pytestmark = pytest.mark.long

Outcome = tuple[str, dict[str, Any]]


@pytest.fixture
def decide(service: Service, celery_setup: CeleryTestSetup, client: BareClient) -> Any:
    """Sends a command by name, and returns its status and outcome; relay and worker run."""
    service.relay()

    def decide(name: str, **body: object) -> Outcome:
        return service.outcome(client.send(f"allocation.{name}", **body))

    return decide


def quantities(service: Service) -> dict[str, tuple[int, int]]:
    """What each batch has, and what of it is promised."""
    with service.engine.connect() as connection:
        return {
            row.batchref: (row.purchased, row.allocated)
            for row in connection.execute(select(batches))
        }


def lines(service: Service) -> dict[str, tuple[int, str | None]]:
    """Pieces and batch of each order's line, which has one part."""
    with service.engine.connect() as connection:
        return {
            row.orderid: (row.qty, row.batchref) for row in connection.execute(select(allocations))
        }


def test_dispatched_pieces_come_back(service: Service, decide: Any) -> None:
    decide("create_batch", batchref="shelf", sku="LAMP", qty=5)
    decide("allocate", orderid="order-1", sku="LAMP", qty=5)
    shipped = decide("dispatch", orderid="order-1", sku="LAMP", qty=3)
    goods = {"orderid": "order-1", "sku": "LAMP"}

    too_many = decide("return_goods", **goods, qty=4, batchref="returns-1")
    usable = decide("return_goods", **goods, qty=2, batchref="returns-1", reason="unwanted")
    broken = decide("return_goods", **goods, qty=1, batchref="returns-1", usable=False)
    once_more = decide("return_goods", **goods, qty=1, batchref="returns-1")

    assert shipped == (
        "succeeded",
        {"status": "dispatched", "batchref": "shelf", "qty": 3, "left": 2},
    )
    assert too_many == (
        "rejected",
        {"reason": "quantity too large", "field": "qty", "qty": 4, "known_qty": 3},
    )
    assert usable == ("succeeded", {"status": "returned", "batchref": "returns-1", "qty": 2})
    assert broken == ("succeeded", {"status": "returned", "batchref": None, "qty": 1})
    assert once_more == (
        "rejected",
        {"reason": "quantity too large", "field": "qty", "qty": 1, "known_qty": 0},
    )
    assert quantities(service) == {"shelf": (2, 2), "returns-1": (2, 0)}


def test_a_line_wants_fewer_and_more_pieces_and_keeps_its_age(
    service: Service, decide: Any
) -> None:
    decide("create_batch", batchref="shelf", sku="LAMP", qty=10)
    decide("allocate", orderid="old", sku="LAMP", qty=6)
    decide("allocate", orderid="young", sku="LAMP", qty=8)

    fewer = decide("change_line_quantity", orderid="old", sku="LAMP", qty=4)
    more = decide("change_line_quantity", orderid="old", sku="LAMP", qty=10)
    too_many = decide("change_line_quantity", orderid="old", sku="LAMP", qty=11)

    allocated = {"status": "allocated", "batchref": "shelf", "eta": None}
    assert fewer == ("succeeded", allocated | {"qty": 4})
    assert more == ("succeeded", allocated | {"qty": 10})
    assert too_many == (
        "rejected",
        {"reason": "not enough stock", "field": "qty", "qty": 11, "known_qty": 10},
    )
    assert lines(service) == {"old": (10, "shelf"), "young": (8, None)}
    assert quantities(service) == {"shelf": (10, 10)}


def test_received_pieces_are_added_and_serve_who_waits(service: Service, decide: Any) -> None:
    decide("create_batch", batchref="shelf", sku="LAMP", qty=2)
    waiting = decide("allocate", orderid="order-1", sku="LAMP", qty=5)
    unknown = decide("receive", batchref="elsewhere", qty=3)

    received = decide("receive", batchref="shelf", qty=3)

    assert waiting[1]["status"] == "waiting"
    assert unknown == (
        "rejected",
        {"reason": "unknown batchref", "field": "batchref", "batchref": "elsewhere"},
    )
    assert received == ("succeeded", {"status": "received", "batchref": "shelf", "qty": 5})
    eventually(lambda: lines(service) == {"order-1": (5, "shelf")}, what="the stock for order-1")


def test_a_blocked_batch_serves_nobody_until_it_is_unblocked(service: Service, decide: Any) -> None:
    decide("create_batch", batchref="a-recalled", sku="LAMP", qty=5)
    decide("create_batch", batchref="b-good", sku="LAMP", qty=3)
    decide("allocate", orderid="old", sku="LAMP", qty=2)
    decide("allocate", orderid="young", sku="LAMP", qty=3)

    blocked = decide("block_batch", batchref="a-recalled", reason="recall 7")
    eventually(lambda: lines(service)["old"] == (2, "b-good"), what="the older one's move")
    asked = decide("allocate", orderid="later", sku="LAMP", qty=4)
    shipped = decide("dispatch", orderid="young", sku="LAMP")
    moved = lines(service)
    unblocked = decide("unblock_batch", batchref="a-recalled")

    assert blocked == ("succeeded", {"status": "blocked", "batchref": "a-recalled"})
    assert asked[1]["status"] == "waiting"
    assert shipped == (
        "rejected",
        {"reason": "not allocated", "field": "orderid", "orderid": "young", "sku": "LAMP"},
    )
    assert moved == {"old": (2, "b-good"), "young": (3, None), "later": (4, None)}
    assert unblocked == ("succeeded", {"status": "unblocked", "batchref": "a-recalled"})
    eventually(
        lambda: lines(service)["young"] == (3, "a-recalled"), what="the stock for the younger one"
    )


def test_a_cancelled_order_gives_up_what_has_not_left(service: Service, decide: Any) -> None:
    decide("create_batch", batchref="lamps", sku="LAMP", qty=5)
    decide("create_batch", batchref="chairs", sku="CHAIR", qty=5)
    wanted = [{"sku": "LAMP", "qty": 5}, {"sku": "CHAIR", "qty": 2}]
    decide("allocate_order", orderid="order-1", lines=wanted)
    decide("dispatch", orderid="order-1", sku="LAMP", qty=4)

    cancelled = decide("cancel_order", orderid="order-1")
    again = decide("cancel_order", orderid="order-1")
    unknown = decide("cancel_order", orderid="order-2")

    assert cancelled == ("succeeded", {"status": "cancelled", "lines": 2, "dispatched": 1})
    assert again == (
        "rejected",
        {"reason": "dispatched", "field": "orderid", "orderid": "order-1"},
    )
    assert unknown == (
        "rejected",
        {"reason": "unknown order", "field": "orderid", "orderid": "order-2"},
    )
    assert lines(service) == {"order-1": (4, "lamps")}
    assert quantities(service) == {"lamps": (1, 0), "chairs": (5, 0)}


def test_a_pre_order_waits_once_its_product_is_created(service: Service, decide: Any) -> None:
    unknown = decide("allocate", orderid="too-early", sku="LAMP", qty=1)
    created = decide("create_product", sku="LAMP", waiting="in_order")
    repeated = decide("create_product", sku="LAMP", waiting="in_order")
    other = decide("create_product", sku="LAMP", waiting="fill")
    first = decide("allocate", orderid="pre-order", sku="LAMP", qty=4)
    second = decide("allocate", orderid="small", sku="LAMP", qty=1)

    decide("create_batch", batchref="shelf", sku="LAMP", qty=3)
    held = lines(service)
    decide("receive", batchref="shelf", qty=1)
    eventually(lambda: lines(service)["pre-order"] == (4, "shelf"), what="the pre-order's stock")

    assert unknown[1]["reason"] == "unknown sku"
    assert created == ("succeeded", {"status": "created", "sku": "LAMP"})
    assert repeated == ("succeeded", {"status": "unchanged", "sku": "LAMP"})
    assert other[1]["reason"] == "product known"
    assert first[1] == second[1] == {"status": "waiting", "batchref": None, "eta": None}
    # In order: the small one is not served past the large one.
    assert held == {"pre-order": (4, None), "small": (1, None)}


def test_a_command_is_refused_if_the_batch_changed_meanwhile(service: Service, decide: Any) -> None:
    decide("create_batch", batchref="shelf", sku="LAMP", qty=10)
    seen = Batch("shelf", "LAMP", 10).version
    decide("allocate", orderid="order-1", sku="LAMP", qty=4)
    counted = decide("change_batch_quantity", batchref="shelf", qty=10, expected_version=seen)
    decide("dispatch", orderid="order-1", sku="LAMP")

    late = decide("change_batch_quantity", batchref="shelf", qty=9, expected_version=seen)

    assert counted[0] == "succeeded"  # a promise takes nothing from the shelf
    now = Batch("shelf", "LAMP", 6).version
    assert late == (
        "rejected",
        {"reason": "changed meanwhile", "field": "expected_version", "version": now},
    )
    assert quantities(service) == {"shelf": (6, 0)}
