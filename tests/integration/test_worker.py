"""The allocation worker as a real process on RabbitMQ and PostgreSQL, met by strangers."""

import json
from collections import Counter
from typing import Any

import pytest
from pytest_celery import CeleryTestSetup

from allocation.adapters.sql import audit
from allocation.contract import registry
from tests.celery_messages import INVALID, celery_headers
from tests.integration.conftest import BareClient, Service
from tests.servers.postgres import PrivatePostgres
from tests.waiting import eventually

pytestmark = pytest.mark.long


def test_every_message_that_is_no_command_is_dead_lettered_and_the_worker_goes_on(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """One bad message harms nobody else; none is dropped."""
    for body, properties in INVALID.values():
        client.send_raw(body, **properties)
    command_id = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)

    outcome = service.outcome(command_id)

    assert outcome == ("succeeded", {"status": "created", "batchref": "b1"})
    eventually(
        lambda: service.depth("allocation.dead") == len(INVALID),
        what="every bad message in the dead-letter queue",
    )
    assert celery_setup.worker.container.status == "running"
    reasons = Counter(letter.reason for letter in service.dead_letters() if letter.error)
    assert reasons == {"unreadable": len(INVALID) - 2, "unknown task": 2}


BAD_BODIES: list[tuple[str, dict[str, Any], str]] = [
    ("allocation.allocate", {"orderid": "o", "sku": "LAMP"}, "qty"),
    ("allocation.allocate", {"orderid": "o", "sku": "LAMP", "colour": "red"}, "qty"),
    ("allocation.allocate", {"orderid": 5, "sku": "LAMP", "qty": 1}, "orderid"),
    ("allocation.allocate", {"orderid": "o", "sku": "LAMP", "qty": "1"}, "qty"),
    ("allocation.allocate", {"orderid": "o", "sku": "LAMP", "qty": True}, "qty"),
    ("allocation.allocate", {"orderid": "o", "sku": "LAMP", "qty": None}, "qty"),
    ("allocation.allocate", {"orderid": "o", "sku": "LAMP", "qty": 0}, "qty"),
    ("allocation.allocate", {"orderid": "o", "sku": "LAMP", "qty": -1}, "qty"),
    ("allocation.allocate", {"orderid": "o", "sku": "LAMP", "qty": 1.5}, "qty"),
    ("allocation.allocate", {"orderid": "o", "sku": "LAMP", "qty": 2**31}, "qty"),
    ("allocation.allocate", {"orderid": "", "sku": "LAMP", "qty": 1}, "orderid"),
    ("allocation.allocate", {"orderid": "o" * 300, "sku": "LAMP", "qty": 1}, "orderid"),
    ("allocation.allocate", {"orderid": "o\u0000", "sku": "LAMP", "qty": 1}, "orderid"),
    ("allocation.allocate", {"orderid": "o\n", "sku": "LAMP", "qty": 1}, "orderid"),
    ("allocation.allocate", {"orderid": "\ud800", "sku": "LAMP", "qty": 1}, "orderid"),
    ("allocation.allocate", {"orderid": "o", "sku": "NOPE", "qty": 1}, "sku"),
    ("allocation.allocate", {"orderid": "order-1", "sku": "LAMP", "qty": 2}, "qty"),
    ("allocation.create_batch", {"batchref": "b1", "sku": "LAMP", "qty": 1}, "batchref"),
    ("allocation.create_batch", {"batchref": "b", "sku": "L", "qty": 1, "eta": "soon"}, "eta"),
    (
        "allocation.create_batch",
        {"batchref": "b", "sku": "L", "qty": 1, "eta": "2030-02-30"},
        "eta",
    ),
    ("allocation.create_batch", {"batchref": "b", "sku": "L", "qty": 1, "eta": 5}, "eta"),
    ("allocation.change_batch_quantity", {"batchref": "nope", "qty": 1}, "batchref"),
    ("allocation.change_batch_quantity", {"batchref": "b1", "qty": -1}, "qty"),
    ("allocation.deallocate", {"orderid": "nope", "sku": "LAMP"}, "orderid"),
    ("allocation.deallocate", {"orderid": "order-1", "sku": "NOPE"}, "sku"),
]


def test_bad_input_becomes_a_recorded_refusal_that_names_the_field(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """And the books balance afterwards."""
    created = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    service.outcome(created)
    service.outcome(client.send("allocation.allocate", orderid="order-1", sku="LAMP", qty=1))

    ids = [client.send(name, **body) for name, body, _ in BAD_BODIES]
    positional = client.send("allocation.allocate", "order-2", "LAMP", 1)

    outcomes = [service.outcome(command_id) for command_id in [*ids, positional]]
    assert [(status, outcome["field"]) for status, outcome in outcomes] == [
        *[("rejected", field) for _, _, field in BAD_BODIES],
        ("rejected", "args"),
    ]
    assert [proof.promise for proof in audit.run(service.engine) if not proof.holds] == []
    assert service.depth("allocation.dead") == 0


def test_a_command_id_that_comes_again_with_another_body_is_dead_lettered(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """Its first meaning stays."""
    headers = celery_headers("allocation.create_batch")
    first = registry.example("allocation.create_batch")
    client.send_raw(json.dumps([[], first, {}]).encode(), headers=headers)
    outcome = service.outcome(str(headers["id"]))

    client.send_raw(json.dumps([[], first | {"qty": 7}, {}]).encode(), headers=headers)

    eventually(lambda: service.depth("allocation.dead") == 1, what="the second in the dead letters")
    assert service.outcome(str(headers["id"])) == outcome


def test_a_killed_worker_loses_nothing_and_doubles_nothing(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """SIGKILL in the middle of the work; what it held is delivered again."""
    service.outcome(client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1000))
    ids = [
        client.send("allocation.allocate", orderid=f"order-{number}", sku="LAMP", qty=1)
        for number in range(100)
    ]
    service.outcome(ids[5])

    celery_setup.worker.kill("SIGKILL")
    celery_setup.worker.container.restart()

    assert {service.outcome(command_id)[0] for command_id in ids} == {"succeeded"}
    assert [proof.promise for proof in audit.run(service.engine) if not proof.holds] == []


def test_a_command_outlives_an_absent_database(
    service: Service,
    celery_setup: CeleryTestSetup,
    client: BareClient,
    private_postgres: PrivatePostgres,
) -> None:
    """It is tried again with growing pauses until the database is back."""
    service.outcome(client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10))
    private_postgres.kill()

    command_id = client.send("allocation.allocate", orderid="o1", sku="LAMP", qty=1)
    celery_setup.worker.container.process.wait_for_log(f"will be retried.*{command_id}")
    private_postgres.start()
    service.engine.dispose()  # the test's own connections, used a moment before the kill

    allocated = {"status": "allocated", "batchref": "b1", "eta": None}
    assert service.outcome(command_id, within=40) == ("succeeded", allocated)
