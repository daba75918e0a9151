"""Events of other systems, by plain AMQP: accepted like requests, once each, and none lost."""

import json
import signal
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any
from uuid import UUID

import amqp
import pytest
from kombu import Connection
from kombu.message import Message as Delivered
from pytest_celery import CeleryTestSetup
from sqlalchemy import func, select

from allocation.adapters.rabbitmq import topology
from allocation.adapters.sql import database
from allocation.adapters.sql.migrations import upgrade
from allocation.adapters.sql.tables import allocations, batches, commands, outbox
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract import inbound_events
from allocation.domain.commands import Allocate, CreateBatch
from allocation.messaging.dead_letters import LARGEST_BODY, DeadLetter
from allocation.service_layer.execution import execute
from tests.contract.test_inbound_events import JSON, REFUSED, event
from tests.faults.gates import Gate
from tests.integration.conftest import BareClient, Service
from tests.servers.postgres import PrivatePostgres
from tests.servers.rabbitmq import PrivateRabbitMQ
from tests.storage.conftest import message
from tests.waiting import eventually
from tests.workers.conftest import as_bytes

pytestmark = pytest.mark.long

QUEUE = "allocation.inbound"
DEAD = "allocation.inbound.dead"
SPOOL = "allocation.adapters.spool:Transport"


def counted(number: int, batchref: str = "b1", qty: int | None = None) -> dict[str, Any]:
    """The event number `number`: so many pieces were counted."""
    quantity = number if qty is None else qty
    return event(id=f"count-{number}", data={"batchref": batchref, "qty": quantity})


def tell(broker_url: str, bodies: Iterable[Any], **properties: Any) -> None:
    """Publish as another system does, with py-amqp alone; all are in the queue when it returns."""
    where = Connection(broker_url)
    with amqp.Connection(
        f"{where.hostname}:{where.port}",
        userid=where.userid,
        password=where.password,
        virtual_host=where.virtual_host,
        confirm_publish=True,
    ) as connection:
        channel = connection.channel()
        for body in bodies:
            options = {"application_headers": properties.get("headers", {})}
            options |= {name: value for name, value in properties.items() if name != "headers"}
            channel.basic_publish(
                amqp.Message(as_bytes(body), delivery_mode=2, **JSON | options),
                exchange=QUEUE,
                routing_key="batch.quantity_changed.v1",
                mandatory=True,
            )


def command_id(body: dict[str, Any]) -> str:
    """The id of the command that an event becomes."""
    return str(inbound_events.read(Delivered(json.dumps(body).encode(), **JSON)).id)


def accepted(service: Service) -> list[int]:
    """The quantities of the commands that were accepted, in order of size."""
    with service.engine.connect() as connection:
        bodies = connection.scalars(
            select(commands.c.body).where(commands.c.name == "allocation.change_batch_quantity")
        )
        return sorted(body["qty"] for body in bodies)


def handed_over(service: Service) -> int:
    """Commands in the outbox."""
    query = select(func.count()).select_from(outbox).where(outbox.c.kind == "command")
    with service.engine.connect() as connection:
        return connection.scalar(query) or 0


def dead(service: Service, count: int = 1) -> list[DeadLetter]:
    """The dead letters, once there are so many."""
    eventually(lambda: service.depth(DEAD) == count, within=20, what=f"{count} dead letters")
    return service.dead_letters(DEAD)


def test_a_counted_batch_has_the_counted_quantity(
    service: Service, celery_setup: CeleryTestSetup
) -> None:
    """Told twice it has one effect, and the events that follow carry the sender's correlation."""
    execute(message(CreateBatch("b1", "LAMP", 10), 1), SqlUnitOfWork(service.engine))
    service.relay()
    running = service.inbound()
    correlation = UUID("0c9ad1a4-5a52-4d4e-8b0e-3f4f5a1f7e10")
    told = counted(7) | {"correlationid": str(correlation)}

    tell(service.broker_url, [told, told])
    assert service.outcome(command_id(told))[0] == "succeeded"
    tell(service.broker_url, [told, counted(8)])
    assert service.outcome(command_id(counted(8)))[0] == "succeeded"

    assert running.stop() == 0
    assert (service.depth(QUEUE), service.depth(DEAD)) == (0, 0)
    changed = outbox.c.name == "allocation.batch_quantity_changed.v1"
    with service.engine.connect() as connection:
        assert connection.scalar(select(batches.c.purchased)) == 8
        events = connection.execute(select(outbox).where(changed).order_by(outbox.c.sequence)).all()
    assert [row.body["data"]["qty"] for row in events] == [7, 8]
    assert [str(row.causation_id) for row in events] == [command_id(told), command_id(counted(8))]
    assert events[0].correlation_id == correlation


def test_the_example_of_each_type_is_decided(
    service: Service, celery_setup: CeleryTestSetup
) -> None:
    """One shipment's life: counted, late, there, damaged, and its only line shipped."""
    create = CreateBatch("shipment-77", "RED-CHAIR", 10, date(2030, 1, 1))
    execute(message(create, 1), SqlUnitOfWork(service.engine))
    execute(message(Allocate("order-1", "RED-CHAIR", 2), 2), SqlUnitOfWork(service.engine))
    service.relay()
    service.inbound()

    for kind in inbound_events.TYPES:
        tell(service.broker_url, [event(kind)])
        assert service.outcome(command_id(event(kind)))[0] == "succeeded", kind

    with service.engine.connect() as connection:
        batch = connection.execute(select(batches.c.purchased, batches.c.eta)).one()
        assert connection.scalar(select(allocations.c.dispatched))
    assert batch == (5 - 2 - 2, None)


def shipped(number: int, qty: int | None = None, **data: object) -> dict[str, Any]:
    """The event number `number`: so many pieces have left, or all that are there."""
    data = {"orderid": "o1", "sku": "LAMP", "batchref": "b1"} | data
    if qty is not None:
        data["qty"] = qty
    return event("warehouse.dispatched.v1", id=f"shipped-{number}", data=data)


@pytest.fixture
def promised(service: Service, celery_setup: CeleryTestSetup) -> Service:
    """5 of 10 pieces on the shelf are promised to an order; 3 of 5 on a ship to another one."""
    for number, command in enumerate(
        [
            CreateBatch("b1", "LAMP", 10),
            Allocate("o1", "LAMP", 5),
            CreateBatch("ship", "CHAIR", 5, date(2300, 1, 1)),
            Allocate("o2", "CHAIR", 3),
        ],
        start=1,
    ):
        execute(message(command, number), SqlUnitOfWork(service.engine))
    service.relay()
    service.inbound()
    return service


def books(service: Service) -> list[tuple[Any, ...]]:
    """Of each batch: what is there, and what is promised; then of each line: what has left."""
    stock = select(batches.c.batchref, batches.c.purchased, batches.c.allocated)
    lines = select(allocations.c.orderid, allocations.c.qty, allocations.c.dispatched_qty)
    with service.engine.connect() as connection:
        rows: list[Any] = [
            *connection.execute(stock.order_by(batches.c.batchref)),
            *connection.execute(lines.order_by(allocations.c.orderid)),
        ]
    return [tuple(row) for row in rows]


SHIP = [("ship", 5, 3)]
UNCHANGED = [("b1", 10, 5), *SHIP, ("o1", 5, 0), ("o2", 3, 0)]


def test_of_a_line_some_pieces_leave_and_the_rest_later(promised: Service) -> None:
    tell(promised.broker_url, [shipped(1, 2)])
    first = promised.outcome(command_id(shipped(1, 2)))
    after_first = books(promised)
    tell(promised.broker_url, [shipped(1, 2), shipped(2, 3)])
    second = promised.outcome(command_id(shipped(2, 3)))

    assert first == ("succeeded", {"status": "dispatched", "batchref": "b1", "qty": 2, "left": 3})
    assert after_first == [("b1", 8, 3), *SHIP, ("o1", 5, 2), ("o2", 3, 0)]
    assert second == ("succeeded", {"status": "dispatched", "batchref": "b1"})
    assert books(promised) == [("b1", 5, 0), *SHIP, ("o1", 5, 0), ("o2", 3, 0)]
    eventually(lambda: promised.depth(QUEUE) == 0, what="nothing left")
    assert (promised.depth(DEAD), promised.depth(topology.DEAD)) == (0, 0)
    left = outbox.c.name == "allocation.dispatched.v1"
    with promised.engine.connect() as connection:
        events = connection.execute(select(outbox).where(left).order_by(outbox.c.sequence)).all()
    assert [(row.body["data"]["qty"], row.body["data"].get("left")) for row in events] == [
        (2, 3),
        (3, None),
    ]


def test_nothing_that_left_is_no_event(promised: Service) -> None:
    tell(promised.broker_url, [shipped(1, 0), shipped(2, 2)])

    [letter] = dead(promised)
    assert (letter.reason, letter.error) == (
        "malformed",
        "the field qty: the value is less than the minimum of 1",
    )
    assert promised.outcome(command_id(shipped(2, 2)))[0] == "succeeded"
    assert books(promised)[0] == ("b1", 8, 3)


PROBLEM = "NotOnTheBooks: goods were reported to have left, and the books do not have them"
NOT_THERE = {
    "quantity too large (field qty, qty 6, known_qty 5)": shipped(1, 6),
    "another batch (field batchref, batchref b2, known b1)": shipped(2, 2, batchref="b2"),
    "not arrived (field batchref, batchref ship)": shipped(
        3, 2, orderid="o2", sku="CHAIR", batchref="ship"
    ),
    "unknown order line (field orderid, orderid o3, sku LAMP)": shipped(4, 2, orderid="o3"),
    "unknown sku (field sku, sku TABLE)": shipped(5, 2, sku="TABLE"),
}


def test_goods_that_left_and_are_not_on_the_books_become_dead_letters_that_say_so(
    promised: Service,
) -> None:
    """The commands fail at once: a retry would not find them either."""
    tell(promised.broker_url, [*NOT_THERE.values(), counted(11)])

    assert promised.outcome(command_id(counted(11)))[0] == "succeeded"
    eventually(lambda: promised.depth(topology.DEAD) == 5, within=20, what="the dead letters")
    letters = {letter.id: letter for letter in promised.dead_letters()}
    for why, told in NOT_THERE.items():
        status, outcome = promised.outcome(command_id(told))
        letter = letters[command_id(told)]
        assert (status, letter.reason, letter.attempts) == ("failed", "failed", 1)
        assert letter.error == outcome["error"]
        assert letter.error.startswith(f"{PROBLEM}: {why}")
        assert why in promised.run("dead", "show", letter.id)
    assert books(promised) == [("b1", 11, 5), *UNCHANGED[1:]]
    checked = json.loads(promised.run("check", "--json", status=1))
    assert [row["promise"] for row in checked if not row["holds"]] == ["no command failed"]


def test_goods_that_left_are_taken_off_the_books_by_a_replay_once_these_are_mended(
    promised: Service,
) -> None:
    told = shipped(1, 3, orderid="o2", sku="CHAIR", batchref="ship")
    tell(promised.broker_url, [told])
    eventually(lambda: promised.depth(topology.DEAD) == 1, what="the dead letter")
    arrived = event("shipment.arrived.v1", id="arrived-1", data={"batchref": "ship"})
    tell(promised.broker_url, [arrived])
    assert promised.outcome(command_id(arrived))[0] == "succeeded"

    promised.run("dead", "replay", "--all")

    eventually(
        lambda: promised.outcome(command_id(told))[0] == "succeeded", what="the replay's outcome"
    )
    assert books(promised) == [("b1", 10, 5), ("ship", 2, 0), ("o1", 5, 0), ("o2", 3, 0)]
    assert promised.depth(topology.DEAD) == 0
    promised.run("check")


def test_goods_that_are_not_on_the_books_harm_no_other_command(promised: Service) -> None:
    """In one burst, of which the worker makes batches."""
    burst = [shipped(number, 1, orderid="o1" if number % 10 == 0 else "o3") for number in range(50)]

    tell(promised.broker_url, burst)

    eventually(lambda: promised.depth(topology.DEAD) == 45, within=30, what="the dead letters")
    outcomes = [promised.outcome(command_id(each))[0] for each in burst]
    assert outcomes == ["succeeded" if number % 10 == 0 else "failed" for number in range(50)]
    assert books(promised)[0] == ("b1", 5, 0)


def test_goods_that_another_service_asks_to_leave_are_refused_if_they_are_not_there(
    promised: Service, client: BareClient
) -> None:
    """It asks, and does not report: the outcome says no, and nothing fails."""
    asked = {"orderid": "o2", "sku": "CHAIR", "batchref": "ship", "qty": 1}

    refused = client.send("allocation.dispatch", **asked)
    reported = client.send("allocation.dispatch", **asked, reported=True)

    assert promised.outcome(refused) == (
        "rejected",
        {"reason": "not arrived", "field": "batchref", "batchref": "ship"},
    )
    assert promised.outcome(reported)[0] == "failed"
    eventually(lambda: promised.depth(topology.DEAD) == 1, what="the dead letter")
    assert books(promised) == UNCHANGED


def test_what_is_no_event_is_set_aside_with_the_reason_and_the_others_go_on(
    service: Service,
) -> None:
    """Among good ones, in one burst."""
    good = 0
    for body, properties, _, _ in REFUSED.values():
        tell(service.broker_url, [body], **properties)
        tell(service.broker_url, [counted(good)])
        good += 1

    service.inbound()

    letters = dead(service, len(REFUSED))
    for letter, (body, _, reason, error) in zip(letters, REFUSED.values(), strict=True):
        assert letter.reason == reason
        assert error in letter.error
        assert as_bytes(letter.message.body) == as_bytes(body)[:LARGEST_BODY]
    eventually(lambda: accepted(service) == list(range(good)), what="the good ones accepted")
    eventually(lambda: service.depth(QUEUE) == 0, what="nothing left")
    rows = json.loads(service.run("dead", "list", "--queue", DEAD, "--json"))
    assert {row["reason"] for row in rows} == {"unreadable", "unknown type", "malformed"}
    assert service.depth(DEAD) == len(REFUSED)


def test_one_id_that_says_two_things_keeps_the_first_and_harms_no_other(service: Service) -> None:
    """Told before, or in the same burst."""
    service.inbound()
    tell(service.broker_url, [counted(1)])
    eventually(lambda: accepted(service) == [1], what="the first accepted")
    burst = [counted(number) for number in range(2, 60)]

    tell(
        service.broker_url,
        [*burst[:20], counted(1, qty=100), *burst[20:], counted(59, batchref="b2"), counted(5)],
    )

    letters = dead(service, 2)
    assert [letter.reason for letter in letters] == ["conflict", "conflict"]
    assert all("was accepted before as" in letter.error for letter in letters)
    eventually(lambda: service.depth(QUEUE) == 0, what="nothing left")
    assert accepted(service) == list(range(1, 60))
    assert handed_over(service) == 59


@pytest.mark.parametrize(("by", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 0)])
def test_ended_in_the_middle_of_a_burst_it_loses_and_doubles_nothing(
    service: Service, by: int, status: int
) -> None:
    """Three times, wherever it is just then."""
    tell(service.broker_url, [counted(number) for number in range(3000)])

    for _ in range(3):
        before = handed_over(service)
        running = service.inbound()
        eventually(lambda before=before: handed_over(service) > before, what="work")  # type: ignore[misc]
        assert running.stop(by=by) == status
    service.inbound()

    eventually(lambda: len(accepted(service)) == 3000, within=30, what="all accepted")
    eventually(lambda: service.depth(QUEUE) == 0, what="nothing left")
    assert accepted(service) == list(range(3000))
    assert (handed_over(service), service.depth(DEAD)) == (3000, 0)


def test_killed_between_commit_and_acknowledgement_it_doubles_nothing(service: Service) -> None:
    """The broker delivers again, and the commands are known."""
    gate = Gate(service.engine, "outbox", deferred=True)
    tell(service.broker_url, [counted(number) for number in range(10)])

    with gate.shut():
        running = service.inbound()
        gate.wait_for_somebody()
        running.send(signal.SIGSTOP)
    eventually(lambda: len(accepted(service)) == 10, what="the commit")
    running.kill()
    eventually(lambda: service.depth(QUEUE) == 10, what="all of them back in the queue")
    service.inbound()

    eventually(lambda: service.depth(QUEUE) == 0, what="nothing left")
    assert accepted(service) == list(range(10))
    assert (handed_over(service), service.depth(DEAD)) == (10, 0)


def test_a_database_that_is_away_costs_no_event_and_no_delivery(
    service: Service, private_postgres: PrivatePostgres
) -> None:
    """They wait in hand, and a stop is heard meanwhile."""
    running, other = service.inbound("first"), service.inbound("second")
    private_postgres.kill()
    tell(service.broker_url, [counted(number) for number in range(500)])
    for process in (running, other):
        eventually(
            lambda p=process: p.logs().count("accepted now; retrying") >= 3,  # type: ignore[misc]
            what="three tries",
        )

    assert other.stop() == 0
    private_postgres.start()
    service.engine.dispose()

    eventually(lambda: len(accepted(service)) == 500, within=30, what="all accepted")
    eventually(lambda: service.depth(QUEUE) == 0, what="nothing left")
    assert (handed_over(service), service.depth(DEAD)) == (500, 0)
    assert running.logs().count("ready: consuming") == 1


def test_it_outlives_its_broker(service: Service, private_rabbitmq: PrivateRabbitMQ) -> None:
    """It connects again, and takes what was told meanwhile."""
    running = service.inbound()
    private_rabbitmq.kill()
    running.wait_for_log("is not being consumed")
    private_rabbitmq.start()

    tell(service.broker_url, [counted(1)])

    eventually(lambda: accepted(service) == [1], within=30, what="the event accepted")
    assert running.running


def test_a_missing_queue_is_waited_for(service: Service) -> None:
    """The log says what to do."""
    with Connection(service.broker_url) as connection:
        connection.channel().queue_delete(QUEUE)
    running = service.start_process(
        ["python", "-m", "allocation", "inbound"], name="inbound", env=service.environment
    )
    running.wait_for_log("it is missing: run `allocation topology`")

    service.run("topology")
    tell(service.broker_url, [counted(1)])

    eventually(lambda: accepted(service) == [1], within=20, what="the event accepted")


def test_a_dead_letter_is_replayed_once_its_cause_is_mended(service: Service) -> None:
    """Here no command can be written for a while; the message is as it was."""
    service.inbound()
    service.refuse_rows("commands")
    tell(service.broker_url, [counted(1), counted(2)])
    letters = dead(service, 2)
    service.take_rows("commands")

    replayed = service.run("dead", "replay", "--queue", DEAD)

    assert [letter.reason for letter in letters] == ["failed", "failed"]
    assert all(letter.error.startswith("InternalError: ") for letter in letters)
    assert "Traceback" in letters[0].message.headers["x-traceback"]
    assert "2 dead letters were delivered again." in replayed
    eventually(lambda: accepted(service) == [1, 2], what="both accepted")
    eventually(lambda: service.depth(QUEUE) == 0, what="nothing left")
    assert service.depth(DEAD) == 0


def test_what_it_cannot_set_aside_itself_the_broker_does(service: Service) -> None:
    """Without the reason, but nothing is lost, and the others go on."""
    with Connection(service.broker_url) as connection, connection.channel() as channel:
        channel.exchange_delete(DEAD)
    service.inbound()

    tell(service.broker_url, [b"{", counted(1)])

    [letter] = dead(service)
    assert letter.reason == "rejected"
    eventually(lambda: accepted(service) == [1], what="the good one accepted")


def test_whatever_its_routing_key_an_event_arrives(service: Service) -> None:
    """A misspelt one is seen, not lost."""
    with Connection(service.broker_url, transport_options={"confirm_publish": True}) as connection:
        for number, key in enumerate(["", "batch.quantity_changed.v1", "anything", "a.b.c.d"]):
            connection.Producer().publish(
                json.dumps(counted(number)),
                exchange=QUEUE,
                routing_key=key,
                mandatory=True,
                content_encoding="utf-8",
                **JSON,
            )

    assert service.depth(QUEUE) == 4


def test_on_the_embedded_broker_it_does_the_same(service: Service, state_dir: Path) -> None:
    """With SQLite: good ones are accepted once, bad ones set aside, and a kill loses none."""
    broker_url = f"spool://{state_dir}/spool"
    database_url = f"sqlite:///{state_dir}/allocation.db"
    upgrade(database_url)
    with Connection(broker_url, transport=SPOOL) as connection:
        topology.declare(connection)
        producer = connection.Producer()
        for number in range(300):
            for body in (json.dumps(counted(number)), json.dumps(counted(number)), "{"):
                producer.publish(
                    body, exchange=QUEUE, routing_key="x.y", content_encoding="utf-8", **JSON
                )
        embedded = Service(
            "",
            database.engine(database_url),
            {"ALLOCATION_STATE_DIR": str(state_dir)},
            service.start_process,
        )

        first = embedded.inbound()
        eventually(lambda: accepted(embedded), what="work")
        first.kill()
        second = embedded.inbound()

        eventually(
            lambda: topology.depth(connection, QUEUE) == 0 and len(accepted(embedded)) == 300,
            within=60,
            what="all accepted",
        )
        assert second.stop() == 0
        assert accepted(embedded) == list(range(300))
        assert handed_over(embedded) == 300
        assert (topology.depth(connection, DEAD) or 0) >= 300
    embedded.engine.dispose()
