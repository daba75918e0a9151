"""Commands that can't be decided: set aside with the reason, looked at, replayed, dropped."""

import json
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from kombu import Connection
from pytest_celery import CeleryTestSetup

from allocation.adapters.sql import audit
from tests.celery_messages import celery_headers
from tests.integration.conftest import BareClient, Service
from tests.servers.postgres import PrivatePostgres
from tests.waiting import eventually

pytestmark = pytest.mark.long


def body(**fields: object) -> bytes:
    """A Celery message's body."""
    return json.dumps([[], fields, {}]).encode()


@pytest.fixture
def broken(service: Service) -> Service:
    """No batch of a new product can be created: its row is refused."""
    service.refuse_rows("products")
    return service


def mend(service: Service) -> None:
    service.take_rows("products")


def dead(service: Service, count: int) -> None:
    eventually(
        lambda: service.depth("allocation.dead") == count, within=30, what=f"{count} dead letters"
    )


def groups(service: Service) -> list[Any]:
    rows = json.loads(service.run("dead", "list", "--json"))
    return [(row["queue"], row["reason"], row["name"], row["letters"]) for row in rows]


def test_a_failed_command_becomes_a_dead_letter_that_tells_everything(
    broken: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """And is marked as failed."""
    command_id = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)

    status, outcome = broken.outcome(command_id)

    assert (status, "products" in outcome["error"]) == ("failed", True)
    dead(broken, 1)
    [letter] = broken.dead_letters()
    assert (letter.id, letter.reason, letter.name, letter.attempts) == (
        command_id,
        "failed",
        "allocation.create_batch",
        1,
    )
    assert letter.error.startswith("InternalError: ")
    assert "Traceback" in letter.message.headers["x-traceback"]


def test_a_command_that_was_retried_tells_how_often_and_since_when(
    service: Service,
    celery_setup: CeleryTestSetup,
    client: BareClient,
    private_postgres: PrivatePostgres,
) -> None:
    """Each retry carries the time of the first failure on; the last one is put into the letter."""
    private_postgres.kill()
    began = datetime.now(UTC).isoformat()
    command_id = client.send("allocation.allocate", orderid="o1", sku="LAMP", qty=1)
    worker = celery_setup.worker.container
    worker.process.wait_for_log(f"(?s)will be retried.*{command_id}.*will be retried.*{command_id}")
    assert worker.process.stop() == 0
    # A worker that is stopped before it has read that its job began returns the first retry, too.
    [retry] = eventually(
        lambda: [
            message
            for message in service.messages("allocation.commands")
            if message.headers["retries"] == 2
        ],
        within=30,
        what="the second retry",
    )

    private_postgres.start()
    worker.restart()
    private_postgres.kill()
    client.send_raw(retry.body, headers=retry.headers | {"retries": 12})

    dead(service, 1)
    [letter] = service.dead_letters()
    assert (letter.reason, letter.attempts) == ("failed", 13)
    assert letter.error.startswith("StorageUnavailable: ")
    assert began < str(letter.first) == retry.headers["first_failed_at"] < str(letter.last)


def test_letters_are_listed_by_reason_and_shown_one_by_one(
    broken: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """Nothing leaves its queue by being looked at."""
    for number in range(3):
        client.send("allocation.create_batch", batchref=f"b{number}", sku="LAMP", qty=10)
    unknown = celery_headers("allocation.fetch_tea")
    client.send_raw(body(), headers=unknown)
    dead(broken, 4)

    listed = groups(broken)

    assert listed == [
        ("allocation.dead", "failed", "allocation.create_batch", 3),
        ("allocation.dead", "unknown task", "allocation.fetch_tea", 1),
    ]
    assert "fetch_tea" in broken.run("dead", "list", "--reason", "unknown task", "--each")
    shown = broken.run("dead", "show", str(unknown["id"]))
    assert "the task 'allocation.fetch_tea' is unknown" in shown
    assert broken.depth("allocation.dead") == 4


def test_letters_replayed_twice_take_effect_once(
    broken: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """One, a group, or all of them."""
    ids = [
        client.send("allocation.create_batch", batchref=f"b{number}", sku="LAMP", qty=10)
        for number in range(3)
    ]
    dead(broken, 3)
    copies = broken.dead_letters()
    mend(broken)

    first = broken.run("dead", "replay", ids[0])
    eventually(lambda: broken.outcome(ids[0])[0] == "succeeded", what="the first's outcome")
    rest = broken.run("dead", "replay", "--reason", "failed", "--json")
    for copy in copies:  # as if the replay had been killed between its two steps, each time
        client.send_raw(body(**json.loads(copy.message.body)[1]), headers=copy.message.headers)

    eventually(
        lambda: [broken.outcome(command_id)[0] for command_id in ids] == ["succeeded"] * 3,
        what="every outcome",
    )
    eventually(lambda: broken.depth("allocation.commands") == 0, what="the copies' end")
    assert "1 dead letter was delivered again." in first
    assert json.loads(rest) == {"delivered_again": 2}
    assert broken.depth("allocation.dead") == 0
    assert [proof.promise for proof in audit.run(broken.engine) if not proof.holds] == []
    assert "no dead letter matches" in broken.run("dead", "replay", ids[0], status=1)


def test_a_dropped_command_counts_as_rejected(
    broken: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """So that whoever asks for it does not wait for ever."""
    kept = client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10)
    dropped = client.send("allocation.create_batch", batchref="b2", sku="LAMP", qty=10)
    dead(broken, 2)

    unsaid = broken.run("dead", "drop", "--yes", status=2)
    told = broken.run("dead", "drop", dropped, "--yes")

    assert "choose dead letters by ids, --queue, --reason, --name, or --all" in unsaid
    assert "1 dead letter was dropped." in told
    assert broken.outcome(dropped) == ("rejected", {"reason": "dropped", "field": "id"})
    assert [letter.id for letter in broken.dead_letters()] == [kept]


def test_what_the_worker_cannot_set_aside_itself_the_broker_does(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """Without the reason, but nothing is lost, and the worker goes on."""
    with Connection(service.broker_url) as connection, connection.channel() as channel:
        channel.exchange_delete("allocation.dead")

    for _ in range(3):
        client.send_raw(b"{", headers=celery_headers())
    dead(service, 3)
    service.run("topology")
    client.send_raw(b"{", headers=celery_headers())
    dead(service, 4)

    assert [letter.reason for letter in service.dead_letters()] == [*["rejected"] * 3, "unreadable"]
    assert celery_setup.worker.container.status == "running"


def test_a_command_that_expired_is_set_aside_and_replayed_without_its_end(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """Celery would acknowledge it, and nobody would hear of it."""
    past = (datetime.now(UTC) - timedelta(minutes=1)).isoformat()
    headers = celery_headers(expires=past)

    client.send_raw(body(orderid="o1", sku="LAMP", qty=1), headers=headers)

    dead(service, 1)
    [letter] = service.dead_letters()
    assert (letter.reason, letter.name) == ("expired", "allocation.allocate")
    service.run("dead", "replay", "--reason", "expired")
    assert service.outcome(str(headers["id"])) == (
        "rejected",
        {"reason": "unknown sku", "field": "sku", "sku": "LAMP"},
    )
    dead(service, 0)


def test_commands_put_off_by_their_senders_stop_nobody_else(
    service: Service, celery_setup: CeleryTestSetup, client: BareClient
) -> None:
    """The broker holds them, not the worker, which holds as many messages as it has processes."""
    service.outcome(client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=10))
    later = (datetime.now(UTC) + timedelta(minutes=10)).isoformat()
    soon = (datetime.now(UTC) + timedelta(seconds=4)).isoformat()
    for number in range(5):
        client.send_raw(
            body(orderid=f"late-{number}", sku="LAMP", qty=1), headers=celery_headers(eta=later)
        )
    due = celery_headers(eta=soon)
    client.send_raw(body(orderid="soon", sku="LAMP", qty=1), headers=due)

    now = client.send("allocation.allocate", orderid="now", sku="LAMP", qty=1)

    assert service.outcome(now)[0] == "succeeded"
    assert datetime.now(UTC).isoformat() < soon
    assert service.outcome(str(due["id"]))[0] == "succeeded"
    assert datetime.now(UTC).isoformat() > soon
