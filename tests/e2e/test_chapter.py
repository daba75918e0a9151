"""The source chapter's end-to-end story, on RabbitMQ and PostgreSQL with real processes."""

import json
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from kombu import Connection, Exchange, Queue
from sqlalchemy import text

from allocation.adapters.sql import audit, database
from tests.e2e.conftest import House
from tests.integration.conftest import BareClient
from tests.waiting import eventually
from workers.warehouse import pick_list

pytestmark = pytest.mark.long

ROOT = Path(__file__).parents[2]


def python_block(containing: str, page: str = "README.md") -> str:
    """The page's Python block with these words in it."""
    text = (ROOT / page).read_text()
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    [found] = [block for block in blocks if containing in block]
    return found


def test_a_smaller_batch_moves_the_order_and_everybody_hears_of_it(
    house: House, broker_url: str
) -> None:
    """Batches and an order over HTTP, the change by a bare client, the news on the fanout."""
    told: list[dict[str, Any]] = []
    with Connection(broker_url) as connection:
        exchange = Exchange("allocation.events", type="fanout", durable=True)
        queue = Queue("the-test", exchange, durable=True)(connection.channel())
        queue.declare()
        early = {"batchref": "early", "sku": "RED-CHAIR", "qty": 10, "eta": "2030-01-01"}
        later = {"batchref": "later", "sku": "RED-CHAIR", "qty": 10, "eta": "2030-02-01"}
        assert house.do("POST", "/v1/batches", later)[0] == 201
        assert house.do("POST", "/v1/batches", early)[0] == 201
        order = {"orderid": "order-1", "sku": "RED-CHAIR", "qty": 8}
        assert house.do("POST", "/v1/allocations", order) == (
            201,
            order | {"status": "allocated", "batchref": "early", "eta": "2030-01-01"},
        )

        BareClient(broker_url).send("allocation.change_batch_quantity", batchref="early", qty=5)

        def hear() -> bool:
            while message := queue.get(no_ack=True):
                told.append(json.loads(message.body))
            return [event["type"] for event in told].count("allocation.allocated.v1") >= 2

        eventually(hear, within=20, what="the order on the later batch")
    sequences = [event["sequence"] for event in told]
    assert sequences == sorted(sequences)
    moved = [event for event in told if event["type"].startswith("allocation.deallocated")]
    allocated = [event for event in told if event["type"] == "allocation.allocated.v1"]
    assert [event["data"] for event in moved] == [order | {"batchref": "early"}]
    assert [event["data"] for event in allocated if event["sequence"] > moved[0]["sequence"]] == [
        order | {"batchref": "later", "eta": "2030-02-01", "customer": None}
    ]
    eventually(
        lambda: picks(house) == [("early", "cancelled"), ("later", "expected")], what="picks"
    )
    listed = house.run("-m", "workers.warehouse", "picks", "--json")
    assert listed.returncode == 0
    assert [pick["batchref"] for pick in json.loads(listed.logs())] == ["early", "later"]
    eventually(lambda: subjects(house) == ["Order order-1 moved to batch later"], what="the mail")
    proof = house.run("-m", "allocation", "check")
    assert proof.returncode == 0
    assert [line.split()[0] for line in proof.logs().splitlines()] == ["holds"] * len(
        audit.INVARIANTS
    )


def picks(house: House) -> list[tuple[str, str]]:
    """Batch and status of each pick."""
    warehouse = database.engine(house.environment["WAREHOUSE_DATABASE_URL"])
    listed = pick_list.listed(warehouse)
    warehouse.dispose()
    return [(pick["batchref"], pick["status"]) for pick in listed]


def subjects(house: House) -> list[str]:
    """The subject of each mail."""
    folder = Path(house.environment["ALLOCATION_STATE_DIR"]) / "mails"
    return [
        line.removeprefix("Subject: ")
        for mail in sorted(folder.glob("*.eml"))
        for line in mail.read_text().splitlines()
        if line.startswith("Subject: ")
    ]


def test_the_lines_of_the_readme_do_what_it_says(
    house: House, broker_url: str, processes: Any, tmp_path: Path
) -> None:
    """Another service sends a command by name; another one hears the event."""
    address = "amqp://guest:guest@127.0.0.1:5672//"
    sending, hearing = python_block("send_task"), python_block("drain_events")
    assert address in sending
    assert address in hearing
    (tmp_path / "send.py").write_text(
        sending.replace(address, broker_url) + "\nprint('sent', sent.id)\n"
    )
    with Connection(broker_url) as connection:
        # What the README's queue will be: bound before the event, so that none is missed.
        events = Exchange("allocation.events", type="fanout", durable=True)
        arguments = {"x-queue-type": "quorum"}
        Queue("mine.events", events, durable=True, queue_arguments=arguments)(
            connection.channel()
        ).declare()
    batch = {"batchref": "b1", "sku": "RED-CHAIR", "qty": 10}
    assert house.do("POST", "/v1/batches", batch)[0] == 201
    house_python = house.environment | {"PYTHONUNBUFFERED": "1"}
    # Run elsewhere than in the project, as another service would.
    sender = processes(
        ["python", str(tmp_path / "send.py")], name="send", env=house_python, cwd=tmp_path
    )
    assert sender.wait(30) == 0
    command_id = sender.logs().split("sent ")[1].strip()

    listener = tmp_path / "hear.py"
    listener.write_text(hearing.replace(address, broker_url))
    heard = ""
    while "allocation.allocated.v1" not in heard:  # one run prints what is there, at least one
        hearer = processes(["python", str(listener)], name="hear", env=house_python, cwd=tmp_path)
        assert hearer.wait(40) == 0
        heard += hearer.logs()

    status, command = house.ask("GET", f"/v1/commands/{command_id}")
    assert (status, command["status"]) == (200, "succeeded")
    assert "allocation.batch_created.v1 RED-CHAIR 1" in heard
    assert "allocation.allocated.v1 RED-CHAIR 2" in heard


def test_the_lines_for_systems_without_celery_change_a_batch(
    house: House, broker_url: str, processes: Any, tmp_path: Path
) -> None:
    """Run twice they have one effect."""
    address = '"127.0.0.1:5672", "guest", "guest"'
    telling = python_block("basic_publish", "docs/enqueue.md")
    assert address in telling
    broker = Connection(broker_url)
    private = (
        f'"{broker.hostname}:{broker.port}", "{broker.userid}", "{broker.password}",'
        f' virtual_host="{broker.virtual_host}"'
    )
    (tmp_path / "tell.py").write_text(telling.replace(address, private))
    inbound = house.processes["inbound"]
    accepted = inbound.logs().count("events were accepted")
    batch = {"batchref": "shipment-77", "sku": "RED-CHAIR", "qty": 100}
    assert house.do("POST", "/v1/batches", batch)[0] == 201

    for _ in range(2):
        teller = processes(["python", str(tmp_path / "tell.py")], name="tell", cwd=tmp_path)
        assert teller.wait(30) == 0, teller.logs()

    def counted() -> bool:
        return house.ask("GET", "/v1/batches/shipment-77")[1]["qty"] == 5

    eventually(counted, what="the counted quantity")
    command_id = uuid5(
        UUID("5f0f3c0e-6a4e-4f5c-9d0e-0d8f6c1b7a52"),
        '["https://wms.example.com/site-1", "count-2029-12-01-17"]',
    )
    status, command = house.ask("GET", f"/v1/commands/{command_id}")
    assert (status, command["status"]) == (200, "succeeded")
    repeated = accepted + 2
    eventually(lambda: inbound.logs().count("events were accepted") == repeated, what="the repeat")
    changed = text(
        "SELECT count(*) FROM outbox WHERE name = 'allocation.batch_quantity_changed.v1'"
    )
    with house.engine.connect() as connection:
        assert connection.scalar(changed) == 1


def test_bad_input_over_http_is_answered_and_harms_nothing(house: House) -> None:
    """Problem details that name the field, the same over the running server as in its tests."""
    bad: list[tuple[str, str, object, int, str]] = [
        ("POST", "/v1/allocations", {"orderid": "o", "sku": "S"}, 422, "qty"),
        ("POST", "/v1/allocations", {"orderid": "o", "sku": "S", "qty": 0}, 422, "qty"),
        ("POST", "/v1/allocations", {"orderid": "o", "sku": "S", "qty": 2**31}, 422, "qty"),
        ("POST", "/v1/allocations", {"orderid": "\x00", "sku": "S", "qty": 1}, 422, "orderid"),
        ("POST", "/v1/batches", {"batchref": "b", "sku": "S", "qty": 1, "eta": "x"}, 422, "eta"),
        ("POST", "/v1/allocations", b'{"orderid": ', 400, ""),
        ("POST", "/v1/allocations", b'"' + b"x" * 2_000_000 + b'"', 413, ""),
        ("POST", "/v1/allocations", {"orderid": "o", "sku": "NOPE", "qty": 1}, 409, "sku"),
        ("PATCH", "/v1/batches/nope", {"qty": 5}, 409, "batchref"),
    ]

    answers = [house.do(method, path, body) for method, path, body, _, _ in bad]

    assert [
        (status, [error["field"] for error in answer.get("errors", [])])
        for status, answer in answers
    ] == [(status, [field] if field else []) for *_, status, field in bad]
    assert all(process.running for process in house.processes.values())
    assert [proof.promise for proof in audit.run(house.engine) if not proof.holds] == []
