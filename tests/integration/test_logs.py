"""Log lines of real processes: a line about one command or event names it, and its trace."""

import json
import sys
import urllib.request
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import UUID, uuid5

import pytest
from kombu import Connection
from sqlalchemy import func, select, update

from allocation.adapters.sql.tables import commands, outbox
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract.inbound_events import COMMAND_IDS
from allocation.domain.commands import Allocate, CreateBatch
from allocation.service_layer.execution import execute
from tests.integration.conftest import BareClient, Service
from tests.integration.test_inbound import tell
from tests.servers.ports import free_ports
from tests.servers.postgres import PrivatePostgres
from tests.servers.processes import Process
from tests.storage.conftest import message
from tests.waiting import eventually

pytestmark = pytest.mark.long

TRACE = "0af7651916cd43dd8448eb211c80319c"
FIRST = f"00-{TRACE}-b7ad6b7169203331-01"
NAMES = (
    *("command_id", "command", "event_id", "type", "sequence"),
    *("orderid", "sku", "batchref", "trace_id"),
)


def line(process: Process, event: str, **having: object) -> dict[str, Any]:
    """What the line `event` with these fields names its subject by, once it is there."""

    def written() -> dict[str, Any] | None:
        for text in process.logs().splitlines():
            if not text.startswith("{"):
                continue
            found: dict[str, Any] = json.loads(text)
            if found["event"] == event and having.items() <= found.items():
                return found
        return None

    found = eventually(written, within=30, what=f"{event!r} in the log of {process.name}")
    return {name: found[name] for name in NAMES if name in found}


@dataclass
class Writing:
    """The service's processes, each writing lines as JSON."""

    service: Service
    environment: dict[str, str]

    def start(self, name: str, *command: str, ready: str) -> Process:
        process = self.service.start_process(
            [sys.executable, "-m", *command], name=name, env=self.environment
        )
        process.wait_for_log(ready)
        return process

    def worker(self) -> Process:
        options = ("worker", "--concurrency=1", "--without-mingle")
        return self.start("worker", "celery", "-A", "allocation", *options, ready="celery@.* ready")

    def relay(self) -> Process:
        return self.start("relay", "allocation", "relay", ready="ready: relaying")


@pytest.fixture
def writing(service: Service, empty_database_url: str, state_dir: Path) -> Writing:
    """Nothing is started yet."""
    return Writing(
        service,
        service.environment
        | {
            "ALLOCATION_LOG_FORMAT": "json",
            "ALLOCATION_API_WORKERS": "1",
            "WAREHOUSE_DATABASE_URL": empty_database_url,
            "NOTIFICATION_DATABASE_URL": f"sqlite:///{state_dir}/notification.db",
        },
    )


def test_api_and_subscribers_name_the_order_line_the_command_and_the_trace(
    writing: Writing, client: BareClient
) -> None:
    """The same ids, whoever writes."""
    [port] = free_ports(1)
    writing.environment |= {"ALLOCATION_PORT": str(port), "ALLOCATION_LOG_LEVEL": "DEBUG"}
    api = writing.start("api", "allocation", "api", ready="The API is ready")
    warehouse = writing.start("warehouse", "workers.warehouse", ready="ready: consuming")
    notification = writing.start("notification", "workers.notification", ready="ready: consuming")
    writing.worker()
    writing.relay()
    traced = replace(client, headers={"traceparent": FIRST})
    traced.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)

    ids = {}
    for orderid, qty in (("o1", 1), ("o2", 5)):
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/v1/allocations",
            data=json.dumps({"orderid": orderid, "sku": "LAMP", "qty": qty}).encode(),
            headers={
                "Content-Type": "application/json",
                "Prefer": "wait=20",
                "traceparent": FIRST,
            },
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            ids[orderid] = answer.headers["Location"].rpartition("/")[2]
    first, second = (
        {
            "command_id": ids[orderid],
            "command": "allocation.allocate",
            "orderid": orderid,
            "sku": "LAMP",
            "trace_id": TRACE,
        }
        for orderid in ids
    )
    picked = line(warehouse, "pick list", orderid="o1")
    mailed = line(notification, "mail sent", orderid="o2")

    assert line(api, "answered", orderid="o1") == first
    assert line(api, "answered", orderid="o2") == second
    assert UUID(picked.pop("event_id"))
    assert picked == first | {
        "type": "allocation.allocated.v1",
        "sequence": 2,
        "batchref": "b1",
    }
    assert UUID(mailed.pop("event_id"))
    assert mailed == {"orderid": "o2", "sku": "LAMP", "trace_id": TRACE}


def test_what_the_warehouse_tells_is_named_alike_on_both_sides(
    writing: Writing, client: BareClient
) -> None:
    """Where nobody gave a trace, it is called by the event that began it."""
    warehouse = writing.start("warehouse", "workers.warehouse", ready="ready: consuming")
    writing.start("inbound", "allocation", "inbound", ready="ready: consuming")
    writing.worker()
    writing.relay()
    client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)
    client.send("allocation.allocate", orderid="o1", sku="LAMP", qty=1)
    line(warehouse, "pick list", orderid="o1")

    writing.start("person", "workers.warehouse", "dispatch", "o1", ready="Dispatched")

    told = line(warehouse, "told")
    event_id = told["event_id"]
    assert told == {
        "event_id": event_id,
        "type": "warehouse.dispatched.v1",
        "orderid": "o1",
        "sku": "LAMP",
        "trace_id": UUID(event_id).hex,
    }
    query = select(commands.c.correlation_id).where(commands.c.name == "allocation.dispatch")

    def heard() -> UUID | None:
        with writing.service.engine.connect() as connection:
            return connection.scalar(query)

    assert eventually(heard, what="the command").hex == told["trace_id"]


def test_a_command_that_nobody_could_decide_is_named(
    writing: Writing, client: BareClient, private_postgres: PrivatePostgres
) -> None:
    """With its trace, or what stands for it."""
    worker = writing.worker()
    private_postgres.kill()
    traced = replace(client, headers={"traceparent": FIRST})
    command = {
        "command_id": traced.send("allocation.allocate", orderid="o1", sku="LAMP", qty=1),
        "command": "allocation.allocate",
        "orderid": "o1",
        "sku": "LAMP",
    }
    other = client.send("allocation.confirm", orderid="o2")

    retry = "the command failed; it will be retried"
    assert line(worker, retry, orderid="o1") == command | {"trace_id": TRACE}
    assert line(worker, retry, orderid="o2") == {
        "command_id": other,
        "command": "allocation.confirm",
        "orderid": "o2",
        "trace_id": UUID(other).hex,
    }


def test_an_event_that_is_set_aside_is_named(writing: Writing) -> None:
    """By as much as can be read of it."""
    inbound = writing.start("inbound", "allocation", "inbound", ready="ready: consuming")
    event = {
        "specversion": "1.0",
        "id": "count-1",
        "source": "urn:wms",
        "type": "batch.quantity_changed.v1",
        "traceparent": FIRST,
        "data": {"batchref": "b1", "qty": -1},
    }

    tell(writing.service.broker_url, [event, b"\xff", {**event, "traceparent": 7, "id": "count-2"}])

    aside = "an event is dead-lettered"
    named = {"event_id": "count-1", "type": event["type"], "batchref": "b1", "trace_id": TRACE}
    assert line(inbound, aside, event_id="count-1") == named
    assert line(inbound, aside, reason="unreadable") == {}
    assert line(inbound, aside, event_id="count-2") == named | {
        "event_id": "count-2",
        "trace_id": uuid5(COMMAND_IDS, '["urn:wms", "count-2"]').hex,
    }


def test_the_relay_names_the_first_of_what_the_broker_refused(
    writing: Writing, client: BareClient
) -> None:
    """Here the command that follows: its queue is gone."""
    engine = writing.service.engine
    execute(message(CreateBatch("b0", "LAMP", 1), 1), SqlUnitOfWork(engine))
    execute(message(Allocate("o1", "LAMP", 2), 2), SqlUnitOfWork(engine))
    with engine.begin() as connection:
        connection.execute(update(outbox).values(sent_at=func.now()))
    writing.worker()
    traced = replace(client, headers={"traceparent": FIRST})
    created = traced.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=2)
    assert writing.service.outcome(created)[0] == "succeeded"
    with Connection(writing.service.broker_url) as connection:
        connection.default_channel.queue_unbind("allocation.commands", "allocation.commands", "#")
        connection.default_channel.queue_delete("allocation.commands")

    relay = writing.relay()

    refused = line(
        relay,
        "the broker accepted only some messages: a queue is full, missing or not bound;"
        " `allocation status` shows which, and `allocation topology` repairs a missing queue"
        " or binding",
    )
    assert UUID(refused.pop("command_id"))
    assert refused == {"command": "allocation.allocate_waiting", "sku": "LAMP", "trace_id": TRACE}


SCRIPT = """
import logging, structlog
from allocation.messaging.telemetry import logs
logs.configure("{form}")
structlog.contextvars.bind_contextvars(orderid="o1", trace_id="{trace}")
structlog.get_logger("shop").warning("a line", seconds=1)
"""


@pytest.mark.parametrize("form", ["json", "console"])
def test_both_formats_show_what_a_line_is_about(
    processes: Callable[..., Process], form: str
) -> None:
    """For machines and for people."""
    script = SCRIPT.format(form=form, trace=TRACE)
    process = processes([sys.executable, "-c", script], name="script")
    assert process.wait() == 0, process.logs()

    [written] = process.logs().splitlines()
    if form == "console":
        assert "a line" in written
        assert written.count(f"orderid=o1 seconds=1 trace_id={TRACE}") == 1
    else:
        shown = json.loads(written)
        assert shown.pop("timestamp")
        shown.pop("logger", None)
        assert shown == {
            "event": "a line",
            "level": "warning",
            "orderid": "o1",
            "trace_id": TRACE,
            "seconds": 1,
        }
