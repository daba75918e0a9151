"""Reservations end by themselves, at their time, and never under the hands of a confirmation."""

import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from celery import Celery
from pytest_celery import CeleryTestSetup
from sqlalchemy import func, select

from allocation.adapters.sql import audit
from allocation.adapters.sql.tables import allocations, batches, commands, outbox
from allocation.views import progress
from tests.integration.conftest import BareClient, Service
from tests.waiting import eventually

pytestmark = pytest.mark.long

PIECES = 100
ORDERS = 200
TTL = 6  # seconds


def lines(service: Service) -> dict[str, Any]:
    """Every line on the books, by order."""
    with service.engine.connect() as connection:
        return {row.orderid: row for row in connection.execute(select(allocations))}


def settled(service: Service) -> bool:
    """Whether nothing is on its way any more."""
    with service.engine.connect() as connection:
        return progress.waiting(connection) == 0


def breaches(service: Service) -> list[str]:
    return [proof.promise for proof in audit.run(service.engine) if not proof.holds]


def test_a_reservation_expires_at_its_time_and_its_stock_goes_to_who_waits(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """By itself: nobody asks for it."""
    service.relay()
    client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)
    reserve = client.send("allocation.reserve", orderid="held", sku="LAMP", qty=1, ttl=2)
    until = datetime.fromisoformat(service.outcome(reserve)[1]["expires_at"])
    waiting = client.send("allocation.allocate", orderid="waiting", sku="LAMP", qty=1)
    assert service.outcome(waiting)[1]["status"] == "waiting"

    eventually(lambda: set(lines(service)) == {"waiting"}, within=20, what="the expiry")
    eventually(lambda: lines(service)["waiting"].batchref == "b1", within=20, what="the stock")

    with service.engine.connect() as connection:
        query = select(commands.c.accepted_at).where(commands.c.name == "allocation.expire")
        accepted = connection.scalar(query)
    assert accepted is not None
    assert accepted >= until
    eventually(lambda: settled(service), within=20, what="everything decided")
    assert breaches(service) == []


def test_what_expired_while_everything_was_down_expires_once_it_is_back(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """The database remembers."""
    relay = service.relay()
    client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)
    reserve = client.send("allocation.reserve", orderid="held", sku="LAMP", qty=1, ttl=1)
    until = datetime.fromisoformat(service.outcome(reserve)[1]["expires_at"])
    relay.kill()
    worker = celery_setup.worker.container
    worker.process.kill()
    eventually(lambda: datetime.now(UTC) > until, within=10, what="the time to pass")
    assert set(lines(service)) == {"held"}

    service.relay("relay-again")
    worker.restart()

    eventually(lambda: lines(service) == {}, within=30, what="the expiry")


def test_two_hundred_reservations_for_a_hundred_pieces(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """Half of them expire, a quarter is confirmed at the last moment, a quarter is held on.

    Nothing is oversold, no confirmed line is lost, and what is freed goes to who waits, in order.
    """
    service.relay()
    with client.celery() as celery:
        send = sender(celery)
        send("allocation.create_batch", batchref="b1", sku="LAMP", qty=PIECES)
        together(
            ORDERS,
            lambda number: send(
                "allocation.reserve",
                orderid=f"o{number}",
                sku="LAMP",
                qty=1,
                ttl=600 if number % 4 == 3 else TTL,
            ),
        )
        eventually(lambda: len(lines(service)) == ORDERS, within=40, what="every reservation")
        ends = {
            orderid: line.expires_at
            for orderid, line in lines(service).items()
            if int(orderid[1:]) % 4 == 2
        }
        confirms: dict[str, str] = {}
        # From a second before the end of each to a little after it.
        for position, (orderid, end) in enumerate(sorted(ends.items(), key=lambda each: each[1])):
            at = end.timestamp() - 1 + 1.2 * position / len(ends)
            if (left := at - time.time()) > 0:
                threading.Event().wait(left)
            confirms[orderid] = send("allocation.confirm", orderid=orderid)
    outcomes = {orderid: service.outcome(sent, within=40) for orderid, sent in confirms.items()}
    eventually(
        lambda: settled(service) and not expiring(service), within=60, what="everything decided"
    )

    left = lines(service)
    confirmed = {orderid for orderid, (status, _) in outcomes.items() if status == "succeeded"}
    lost = {orderid for orderid, (status, _) in outcomes.items() if status == "rejected"}
    assert confirmed | lost == set(ends)
    assert confirmed
    held_on = {f"o{number}" for number in range(ORDERS) if number % 4 == 3}
    assert set(left) == confirmed | held_on
    assert all(left[orderid].expires_at is None for orderid in confirmed)
    # A hundred pieces are enough for the hundred that are left.
    assert all(line.batchref == "b1" for line in left.values())
    with service.engine.connect() as connection:
        assert connection.scalar(select(batches.c.allocated)) == len(left)
    assert served(service) == sorted(served(service))
    assert breaches(service) == []


def sender(celery: Celery) -> Callable[..., str]:
    """Sends a command by name; returns its id. For many threads."""
    local = threading.local()

    def send(name: str, **body: object) -> str:
        if not hasattr(local, "producer"):
            local.producer = celery.connection().Producer()
        sent = celery.send_task(
            name,
            kwargs=body,
            exchange="allocation.commands",
            routing_key="allocation.commands",
            producer=local.producer,
        )
        return str(sent.id)

    return send


def together(number: int, call: Callable[[int], object]) -> None:
    """Make the calls from eight threads."""
    threads = [
        threading.Thread(target=lambda first=first: [call(n) for n in range(first, number, 8)])
        for first in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def expiring(service: Service) -> int:
    """Reservations that should have ended."""
    with service.engine.connect() as connection:
        query = select(func.count()).where(allocations.c.expires_at < func.now())
        return connection.scalar(query) or 0


def served(service: Service) -> list[int]:
    """The ages of the lines in the order in which they were first served."""
    first = (
        select(
            outbox.c.orderid,
            func.min(outbox.c.sequence).label("sequence"),
        )
        .where(outbox.c.name.in_(["allocation.reserved.v1", "allocation.allocated.v1"]))
        .group_by(outbox.c.orderid)
        .subquery()
    )
    query = (
        select(allocations.c.age)
        .join(first, first.c.orderid == allocations.c.orderid)
        .order_by(first.c.sequence)
    )
    with service.engine.connect() as connection:
        return list(connection.scalars(query))
