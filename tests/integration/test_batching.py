"""Commands that wait together are decided together, and each is still a command of its own."""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any
from uuid import uuid4

import pytest
from sqlalchemy import text

from allocation.adapters.sql import audit
from tests.celery_messages import celery_headers
from tests.integration.conftest import BareClient, Service
from tests.servers.processes import Process
from tests.waiting import eventually

pytestmark = pytest.mark.long

Command = tuple[str, Mapping[str, object]]


def send(client: BareClient, commands: Sequence[Command]) -> list[str]:
    """Queue them in this order; their ids."""
    ids = []
    with (
        client.celery() as celery,
        celery.connection() as connection,
        celery.amqp.Producer(connection) as producer,
    ):
        for name, body in commands:
            sent = celery.send_task(
                f"allocation.{name}",
                kwargs=dict(body),
                exchange="allocation.commands",
                routing_key="allocation.commands",
                producer=producer,
            )
            ids.append(str(sent.id))
    return ids


def worker(service: Service, *options: str, **settings: str) -> Process:
    """A worker of two processes, at work."""
    command = [sys.executable, "-m", "celery", "-A", "allocation", "worker", "--concurrency=2"]
    command += options
    process = service.start_process(command, name="worker", env=service.environment | settings)
    process.wait_for_log("ready")
    return process


def outcomes(service: Service, ids: Sequence[str]) -> list[Any]:
    """(status, what it says) of each command, once all have one."""
    query = text("SELECT id::text, status, outcome FROM commands WHERE status != 'pending'")

    def known() -> dict[str, Any] | None:
        with service.engine.connect() as connection:
            rows = {row.id: (row.status, row.outcome) for row in connection.execute(query)}
        return rows if rows.keys() >= set(ids) else None

    rows = eventually(known, within=40, what=f"{len(ids)} outcomes")
    return [rows[each] for each in ids]


def transactions(service: Service) -> int:
    """How many transactions recorded outcomes."""
    with service.engine.connect() as connection:
        return int(connection.scalar(text("SELECT count(DISTINCT xmin::text) FROM commands")) or 0)


def allocates(number: int, sku: str = "LAMP") -> list[Command]:
    return [
        ("allocate", {"orderid": f"o{each:03}", "sku": sku, "qty": 1}) for each in range(number)
    ]


def on_shelf(sku: str, qty: int) -> Command:
    return ("create_batch", {"batchref": f"{sku}-1", "sku": sku, "qty": qty})


def test_what_waits_together_is_decided_by_few_transactions(
    service: Service, client: BareClient
) -> None:
    """And the first come are the first served, though two processes share the work."""
    ids = send(client, [on_shelf("LAMP", 250), *allocates(300)])

    worker(service)
    found = outcomes(service, ids)

    assert [outcome["status"] for _, outcome in found] == [
        "created",
        *["allocated"] * 250,
        *["waiting"] * 50,
    ]
    assert transactions(service) < 60
    assert [proof for proof in audit.run(service.engine) if not proof.holds] == []


def test_with_a_size_of_one_each_command_has_its_own_transaction(
    service: Service, client: BareClient
) -> None:
    """The setting means what it says."""
    ids = send(client, [on_shelf("LAMP", 30), *allocates(30)])

    worker(service, ALLOCATION_BATCH_SIZE="1")
    outcomes(service, ids)

    assert transactions(service) == 31


def test_commands_of_a_sku_keep_their_order_whatever_they_name(
    service: Service, client: BareClient
) -> None:
    """One that names only a batch waits for those before it, and holds back those after it."""
    skus = [f"SKU-{each}" for each in range(40)]
    commands: list[Command] = []
    for sku in skus:
        commands += [
            on_shelf(sku, 1),
            ("change_batch_quantity", {"batchref": f"{sku}-1", "qty": 5}),
            ("allocate", {"orderid": "o1", "sku": sku, "qty": 5}),
            ("deallocate", {"orderid": "o1", "sku": sku}),
            ("allocate", {"orderid": "o2", "sku": sku, "qty": 4}),
        ]
    ids = send(client, commands)

    worker(service, ALLOCATION_BATCH_SIZE="7")  # so that both processes always have a batch
    found = outcomes(service, ids)

    statuses = [outcome.get("status") for _, outcome in found]
    assert statuses == ["created", "changed", "allocated", "deallocated", "allocated"] * 40


def test_commands_of_an_order_keep_their_order_whatever_skus_it_has(
    service: Service, client: BareClient
) -> None:
    """One that names only the order waits for its lines, and holds back what comes after it."""
    commands: list[Command] = [on_shelf("LAMP", 100), on_shelf("CHAIR", 100)]
    for number in range(40):
        orderid, held = f"o{number}", {"qty": 1, "ttl": 600}
        commands += [
            ("reserve", {"orderid": orderid, "sku": "LAMP", **held}),
            ("reserve", {"orderid": orderid, "sku": "CHAIR", **held}),
            ("confirm", {"orderid": orderid}),
            ("deallocate", {"orderid": orderid, "sku": "CHAIR"}),
            ("allocate_order", {"orderid": orderid, "lines": [{"sku": "CHAIR", "qty": 2}]}),
        ]
    ids = send(client, commands)

    worker(service, ALLOCATION_BATCH_SIZE="7")  # so that both processes always have a batch
    found = outcomes(service, ids)

    statuses = [outcome.get("status") for _, outcome in found[2:]]
    assert statuses == ["reserved", "reserved", "confirmed", "deallocated", "decided"] * 40
    assert {outcome["lines"] for _, outcome in found[4::5]} == {2}
    assert [proof for proof in audit.run(service.engine) if not proof.holds] == []


def test_a_refusal_among_others_touches_nobody_else(service: Service, client: BareClient) -> None:
    """Each hears its own outcome."""
    commands = [on_shelf("LAMP", 100), *allocates(20)]
    refused: list[Command] = [
        ("allocate", {"orderid": "o1", "sku": "NO-SUCH-SKU", "qty": 1}),
        ("allocate", {"orderid": "o1", "sku": "LAMP", "qty": -1}),
        on_shelf("LAMP", 7),
    ]
    ids = send(client, commands[:5] + refused + commands[5:])

    worker(service)
    found = outcomes(service, ids)

    assert [status for status, _ in found[5:8]] == ["rejected"] * 3
    assert [status for status, _ in found[:5] + found[8:]] == ["succeeded"] * 21


def test_a_command_that_breaks_its_transaction_stands_alone(
    service: Service, client: BareClient
) -> None:
    """The others commit; it becomes a dead letter with its own reason."""
    with service.engine.begin() as connection:
        connection.execute(
            text(
                "CREATE FUNCTION refuse() RETURNS trigger AS $$ BEGIN"
                " RAISE EXCEPTION 'the disk is on fire'; END $$ LANGUAGE plpgsql"
            )
        )
        connection.execute(
            text(
                "CREATE TRIGGER refuse BEFORE INSERT ON allocations FOR EACH ROW"
                " WHEN (NEW.orderid = 'o007') EXECUTE FUNCTION refuse()"
            )
        )
    ids = send(client, [on_shelf("LAMP", 100), *allocates(50)])

    worker(service)
    found = outcomes(service, ids)

    failed = [index for index, (status, _) in enumerate(found) if status == "failed"]
    assert failed == [8]
    assert "the disk is on fire" in found[8][1]["error"]
    letters = eventually(service.dead_letters, what="the dead letter")
    assert [letter.id for letter in letters] == [ids[8]]


def test_a_command_with_limits_of_its_own_goes_alone(service: Service, client: BareClient) -> None:
    ids = send(client, [on_shelf("LAMP", 100), *allocates(20)])
    limited = str(uuid4())
    body = json.dumps([[], {"orderid": "limited", "sku": "LAMP", "qty": 1}, {}]).encode()
    headers = celery_headers(id=limited, timelimit=[20, 10])
    client.send_raw(body, headers=headers, correlation_id=limited)

    worker(service)
    found = outcomes(service, [*ids, limited])

    assert [status for status, _ in found] == ["succeeded"] * 22


def test_ending_one_command_by_force_harms_no_other_of_its_batch(
    service: Service, client: BareClient
) -> None:
    """Its process dies, and the others are delivered again."""
    worker(service)
    outcomes(service, send(client, [on_shelf("LAMP", 100)]))
    with service.engine.connect() as gate:
        gate.execute(text("SELECT * FROM products FOR UPDATE"))
        ids = send(client, allocates(21))

        def waiting() -> bool:
            query = text(
                "SELECT count(*) FROM pg_stat_activity"
                " WHERE datname = current_database() AND wait_event_type = 'Lock'"
            )
            with service.engine.connect() as connection:
                return bool(connection.scalar(query))

        eventually(waiting, what="the batch to wait for the lock")
        with client.celery() as celery:
            celery.control.revoke(ids[0], terminate=True, signal="SIGKILL")
            letters = eventually(service.dead_letters, what="the revoked command's dead letter")
        gate.rollback()

    assert [status for status, _ in outcomes(service, ids[1:])] == ["succeeded"] * 20
    assert [letter.id for letter in letters] == [ids[0]]


def test_a_worker_without_a_pool_of_processes_decides_batch_after_batch(
    service: Service, client: BareClient
) -> None:
    worker(service, "--pool=solo", ALLOCATION_BATCH_SIZE="1")
    batch: Command = ("create_batch", {"batchref": "b1", "sku": "LAMP", "qty": 100})

    ids = send(client, [batch, *allocates(5)])

    assert {status for status, _ in outcomes(service, ids)} == {"succeeded"}
