"""Batches expire, and are overdue, as the shop's day begins: by the database's clock, once."""

import json
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from celery import Celery
from sqlalchemy import Engine, select, text
from sqlalchemy.engine import make_url

from allocation.adapters.sql import audit, database
from allocation.adapters.sql.tables import allocations, batches, commands, outbox
from allocation.views import progress
from tests.integration.conftest import BareClient, Service
from tests.nodes import WorkerProcess
from tests.waiting import eventually

pytestmark = pytest.mark.long

DAY = date(2031, 3, 1)
NOON = datetime(2031, 3, 1, 12, tzinfo=UTC)
MIDNIGHT = datetime(2031, 3, 2, tzinfo=UTC)
"""The moment in which DAY has passed in UTC."""
IN_TIME = timedelta(seconds=2)
EXPIRE, MARK = "allocation.expire_batch", "allocation.mark_overdue"
EXPIRED, OVERDUE = "allocation.batch_expired.v1", "allocation.batch_overdue.v1"
QUEUES = ("warehouse.events", "notification.events")


class Clock:
    """The database's clock, which the test sets; it goes on at its usual pace."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        name = make_url(str(engine.url)).database
        with engine.begin() as connection:
            for statement in (
                "CREATE TABLE test_clock AS SELECT interval '0' AS ahead",
                "CREATE FUNCTION public.clock_timestamp() RETURNS timestamptz LANGUAGE sql"
                " AS 'SELECT pg_catalog.clock_timestamp() + ahead FROM public.test_clock'",
                "CREATE FUNCTION public.now() RETURNS timestamptz LANGUAGE sql STABLE"
                " AS 'SELECT pg_catalog.now() + ahead FROM public.test_clock'",
                # From the next connection on, a call without a schema finds these first.
                f'ALTER DATABASE "{name}" SET search_path = public, pg_catalog',
            ):
                connection.execute(text(statement))
        engine.dispose()

    def set(self, moment: datetime) -> None:
        """Have the clock say `moment` now."""
        ahead = text("UPDATE test_clock SET ahead = :moment - pg_catalog.clock_timestamp()")
        with self._engine.begin() as connection:
            connection.execute(ahead, {"moment": moment})
        with self._engine.connect() as connection:
            seen = connection.scalar(text("SELECT now()"))
            assert timedelta(0) <= database.clock(connection) - moment < timedelta(minutes=1)
            assert seen is not None
            assert timedelta(0) <= seen - moment < timedelta(minutes=1)


@pytest.fixture
def clock(service: Service) -> Clock:
    """It says that it is noon of DAY in UTC."""
    clock = Clock(service.engine)
    clock.set(NOON)
    return clock


@pytest.fixture
def worker(service: Service) -> Callable[..., WorkerProcess]:
    """Starts a worker of two children, and waits until it is ready."""

    def start(name: str = "worker", **settings: str) -> WorkerProcess:
        environment = service.environment | settings
        started = WorkerProcess(
            service.start_process,
            app="allocation",
            env=environment,
            name=name,
            options=("--concurrency=2",),
        )
        started.ready()
        return started

    return start


def rows(service: Service, table: Any, *names: str) -> list[Any]:
    """The rows of these names."""
    with service.engine.connect() as connection:
        return list(connection.execute(select(table).where(table.c.name.in_(names))))


def due(service: Service) -> dict[str, datetime]:
    """When each scheduled command is due, by its name."""
    found = rows(service, outbox, EXPIRE, MARK)
    return {row.name: row.due_at for row in found if row.due_at is not None}


def decided(service: Service) -> list[Any]:
    """The expiries and the marks that were decided, in the order of their names."""
    found = [row for row in rows(service, commands, EXPIRE, MARK) if row.status != "pending"]
    return sorted(found, key=lambda row: row.name)


def recorded(service: Service) -> list[tuple[str, dict[str, Any]]]:
    """The names and the data of the events about expiry and overdue, in their order."""
    found = rows(service, outbox, EXPIRED, OVERDUE)
    return sorted((row.name, row.body["data"]) for row in found)


def settle(service: Service) -> None:
    """Wait until no command is pending and no row unsent."""

    def quiet() -> bool:
        with service.engine.connect() as connection:
            unsent = select(outbox.c.id).where(outbox.c.sent_at.is_(None)).limit(1)
            return progress.waiting(connection) == 0 and connection.scalar(unsent) is None

    eventually(quiet, within=30, what="everything decided and published")


def delivered(service: Service, queue: str) -> list[str]:
    """What the queue got of expiry and overdue, in the order of the names."""
    types = [json.loads(message.body)["type"] for message in service.messages(queue)]
    return sorted(each for each in types if each in (EXPIRED, OVERDUE))


def stock(service: Service, client: BareClient, day: date = DAY) -> None:
    """Ten pieces that are good until `day`, all promised; a ship that comes then; three others."""
    for name, body in (
        ("create_batch", {"batchref": "a-old", "qty": 10, "best_before": str(day)}),
        ("allocate", {"orderid": "order-1", "qty": 7}),
        ("allocate", {"orderid": "order-2", "qty": 3}),
        ("create_batch", {"batchref": "b-fresh", "qty": 3}),
    ):
        sent = client.send(f"allocation.{name}", sku="MILK", **body)
        assert service.outcome(sent)[0] == "succeeded"
    ship = {"batchref": "ship", "sku": "RICE", "qty": 5, "eta": str(day)}
    service.outcome(client.send("allocation.create_batch", **ship))
    promised = client.send("allocation.allocate", orderid="order-3", sku="RICE", qty=5)
    assert service.outcome(promised)[1]["batchref"] == "ship"


def holds(service: Service) -> dict[str, str | None]:
    """The batch that serves each order's line."""
    with service.engine.connect() as connection:
        found = connection.execute(select(allocations.c.orderid, allocations.c.batchref))
        return {row.orderid: row.batchref for row in found}


HAPPENED: list[tuple[str, dict[str, Any]]] = [
    (
        EXPIRED,
        {"batchref": "a-old", "sku": "MILK", "qty": 10, "best_before": str(DAY)},
    ),
    (OVERDUE, {"batchref": "ship", "sku": "RICE", "eta": str(DAY)}),
]


def test_expiry_and_overdue_happen_as_the_day_ends(
    service: Service, worker: Callable[..., WorkerProcess], client: BareClient, clock: Clock
) -> None:
    service.relay()
    worker()
    stock(service, client)
    assert due(service) == {EXPIRE: MIDNIGHT, MARK: MIDNIGHT}
    assert holds(service) == {"order-1": "a-old", "order-2": "a-old", "order-3": "ship"}

    clock.set(MIDNIGHT - timedelta(seconds=2))
    eventually(lambda: len(decided(service)) == 2, within=30, what="expiry and overdue")
    settle(service)

    for command in decided(service):
        assert timedelta(0) <= command.accepted_at - MIDNIGHT < IN_TIME, command.name
    assert recorded(service) == HAPPENED
    # The order that fits moves; the larger one waits; an overdue batch keeps its promises.
    assert holds(service) == {"order-1": None, "order-2": "b-fresh", "order-3": "ship"}
    for queue in QUEUES:
        assert delivered(service, queue) == [EXPIRED, OVERDUE]
    assert [result.promise for result in audit.run(service.engine) if not result.holds] == []


def test_they_happen_once_when_everything_was_down_at_their_moment(
    service: Service, worker: Callable[..., WorkerProcess], client: BareClient, clock: Clock
) -> None:
    """Restarts, a redelivered message and a second worker repeat nothing."""
    relay = service.relay()
    working = worker()
    stock(service, client)
    relay.kill()
    working.kill()
    clock.set(MIDNIGHT + timedelta(days=3))
    assert decided(service) == []

    back = datetime.now(UTC)
    again = service.relay("relay-again")
    again.wait_for_log("ready: relaying")
    eventually(lambda: rows(service, commands, EXPIRE), within=30, what="acceptance")
    late = [row.accepted_at for row in rows(service, commands, EXPIRE, MARK)]
    assert max(late) - MIDNIGHT - timedelta(days=3) < datetime.now(UTC) - back + IN_TIME
    working.restart()
    worker("worker-2")
    eventually(lambda: len(decided(service)) == 2, within=30, what="expiry and overdue")
    with client.celery() as celery:
        for command in decided(service):
            repeat(celery, command.name, command.body, command.id)  # as if it were redelivered
            sent = client.send(command.name, **command.body)  # a command of its own
            assert service.outcome(sent)[1]["status"] == "kept"
    again.kill()
    service.relay("relay-at-last")
    working.restart()
    settle(service)
    eventually(lambda: service.depth("allocation.commands") == 0, what="an empty queue")

    assert recorded(service) == HAPPENED
    assert holds(service) == {"order-1": None, "order-2": "b-fresh", "order-3": "ship"}
    for queue in QUEUES:
        assert delivered(service, queue) == [EXPIRED, OVERDUE]


def repeat(celery: Celery, name: str, body: dict[str, Any], command_id: UUID) -> None:
    """Send the command again, under its id."""
    celery.send_task(
        name,
        kwargs=body,
        task_id=str(command_id),
        exchange="allocation.commands",
        routing_key="allocation.commands",
    )


@pytest.mark.parametrize(
    ("zone", "day", "begins"),
    [
        # The day has 25 hours in Auckland, and 23 in Los Angeles.
        ("Pacific/Auckland", date(2031, 4, 6), datetime(2031, 4, 6, 12, tzinfo=UTC)),
        ("America/Los_Angeles", date(2031, 3, 9), datetime(2031, 3, 10, 7, tzinfo=UTC)),
    ],
)
def test_the_day_begins_at_local_midnight(
    service: Service,
    worker: Callable[..., WorkerProcess],
    client: BareClient,
    clock: Clock,
    zone: str,
    day: date,
    begins: datetime,
) -> None:
    service.relay(ALLOCATION_TIMEZONE=zone)
    worker(ALLOCATION_TIMEZONE=zone)
    clock.set(begins - timedelta(hours=2))
    stock(service, client, day)
    assert due(service) == {EXPIRE: begins, MARK: begins}

    # A minute before, the batch serves as ever.
    clock.set(begins - timedelta(minutes=1))
    body = {"batchref": "a-old", "qty": 11}
    assert service.outcome(client.send("allocation.change_batch_quantity", **body))[0] == (
        "succeeded"
    )
    taken = client.send("allocation.allocate", orderid="last", sku="MILK", qty=1)
    assert service.outcome(taken)[1]["batchref"] == "a-old"
    assert recorded(service) == []
    clock.set(begins - timedelta(seconds=2))
    eventually(lambda: len(decided(service)) == 2, within=30, what="expiry and overdue")
    settle(service)

    for command in decided(service):
        assert timedelta(0) <= command.accepted_at - begins < IN_TIME, command.name
    assert [name for name, _ in recorded(service)] == [EXPIRED, OVERDUE]
    assert "a-old" not in holds(service).values()
    with service.engine.connect() as connection:
        kept = select(batches.c.allocated).where(batches.c.batchref == "a-old")
        assert connection.scalar(kept) == 0


def test_a_batch_with_another_day_by_then_is_kept(
    service: Service, worker: Callable[..., WorkerProcess], client: BareClient, clock: Clock
) -> None:
    service.relay()
    worker()
    stock(service, client)
    later = str(DAY + timedelta(days=1))
    for name, body in (
        ("change_best_before", {"batchref": "a-old", "best_before": later}),
        ("change_batch_eta", {"batchref": "ship", "eta": later}),
    ):
        assert service.outcome(client.send(f"allocation.{name}", **body))[0] == "succeeded"

    clock.set(MIDNIGHT)
    eventually(lambda: len(decided(service)) == 2, within=30, what="the commands of the old days")
    settle(service)
    kept = [row.outcome["status"] for row in decided(service)]
    events_before = recorded(service)
    clock.set(MIDNIGHT + timedelta(days=1))
    eventually(lambda: len(decided(service)) == 4, within=30, what="those of the new days")
    settle(service)

    assert (kept, events_before) == (["kept", "kept"], [])
    assert recorded(service) == [
        (EXPIRED, HAPPENED[0][1] | {"best_before": later}),
        (OVERDUE, HAPPENED[1][1] | {"eta": later}),
    ]
