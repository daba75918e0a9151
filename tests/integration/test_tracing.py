"""Spans on real servers: one trace through every hop, and no harm from a collector that is away."""

import json
import sys
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen
from uuid import UUID

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.trace.v1.trace_pb2 import Status
from sqlalchemy import Engine, select

from allocation.adapters.sql import audit
from allocation.adapters.sql.tables import outbox
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.domain.commands import Allocate
from allocation.messaging import database
from allocation.service_layer.execution import accept
from allocation.views import progress
from tests.integration.conftest import BareClient, Service
from tests.servers.ports import free_ports
from tests.servers.processes import Process
from tests.storage.conftest import message
from tests.waiting import eventually
from tests.workers.conftest import event, publish
from workers.warehouse import tables

pytestmark = pytest.mark.long

TRACE = "0af7651916cd43dd8448eb211c80319c"
CALLER = f"00-{TRACE}-b7ad6b7169203331-01"


@pytest.fixture
def spans(service: Service, empty_database_url: str) -> list[Any]:
    """Name, parent's name and attributes of the trace of one order line, as they began."""
    process = service.start_process(
        [sys.executable, "-m", "tests.integration.tracing_program", CALLER],
        name="all",
        cwd=Path(__file__).parents[2],
        env=service.environment | {"WAREHOUSE_DATABASE_URL": empty_database_url},
    )
    assert process.wait(60) == 0, process.logs()
    return [json.loads(line) for line in process.logs().splitlines() if line.startswith('["')]


def test_one_trace_holds_every_hop_of_an_order_line(spans: list[Any]) -> None:
    """Each is the child of the one before, across both outboxes and every queue."""
    assert [(name, parent) for name, parent, _ in spans] == [
        ("POST /v1/allocations", "the caller"),
        ("publish allocation.allocate", "POST /v1/allocations"),
        ("process allocation.allocate", "publish allocation.allocate"),
        ("publish allocation.allocated.v1", "process allocation.allocate"),
        ("process allocation.allocated.v1", "publish allocation.allocated.v1"),
        ("dispatch", "the caller"),
        ("publish warehouse.dispatched.v1", "dispatch"),
        ("process warehouse.dispatched.v1", "publish warehouse.dispatched.v1"),
        ("publish allocation.dispatch", "process warehouse.dispatched.v1"),
        ("process allocation.dispatch", "publish allocation.dispatch"),
        ("publish allocation.dispatched.v1", "process allocation.dispatch"),
        ("process allocation.dispatched.v1", "publish allocation.dispatched.v1"),
    ]


def test_a_span_says_what_opentelemetry_has_names_for(spans: list[Any]) -> None:
    """By its conventions for HTTP and for messages."""
    said = {name: facts for name, _, facts in spans}
    command, event = said["process allocation.allocate"], said["publish allocation.allocated.v1"]

    assert said["POST /v1/allocations"] == {
        "kind": "SERVER",
        "status": "UNSET",
        "http.request.method": "POST",
        "http.route": "/v1/allocations",
        "http.response.status_code": 201,
        "url.path": "/v1/allocations",
        "url.scheme": "http",
    }
    command_id = command["messaging.message.id"]
    assert command == {
        "kind": "CONSUMER",
        "status": "UNSET",
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": "allocation.commands",
        "messaging.message.id": command_id,
        "messaging.message.conversation_id": command_id,
        "orderid": "o1",
        "sku": "LAMP",
    }
    assert UUID(event.pop("messaging.message.id"))
    assert event == {
        "kind": "PRODUCER",
        "status": "UNSET",
        "messaging.system": "rabbitmq",
        "messaging.operation.name": "publish",
        "messaging.operation.type": "send",
        "messaging.destination.name": "allocation.events",
        "messaging.message.conversation_id": command_id,
    }


class Collector(ThreadingHTTPServer):
    """Takes spans as OpenTelemetry's own collector does: (service, name, trace id) of each.

    Of those that failed, name and why.
    """

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Taking)
        self.spans: list[tuple[str, str, str]] = []
        self.failed: list[tuple[str, str]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def take(self, body: bytes) -> None:
        """What one request brings."""
        for group in ExportTraceServiceRequest.FromString(body).resource_spans:
            self.failed += [
                (span.name, span.status.message)
                for scope in group.scope_spans
                for span in scope.spans
                if span.status.code == Status.STATUS_CODE_ERROR
            ]
            said = {each.key: each.value.string_value for each in group.resource.attributes}
            self.spans += [
                (said["service.name"], span.name, span.trace_id.hex())
                for scope in group.scope_spans
                for span in scope.spans
            ]


class Taking(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        self.server.take(self.rfile.read(int(self.headers["Content-Length"])))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Silent."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    """Listens on a free port."""
    with Collector() as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def warehouse(empty_database_url: str) -> Iterator[Engine]:
    """Its database."""
    made = database.engine(empty_database_url)
    yield made
    made.dispose()


StartAll = Callable[..., dict[str, Process]]


@pytest.fixture
def start_all(service: Service, empty_database_url: str) -> StartAll:
    """Starts api, worker, relay and warehouse with more in their environment, and waits."""

    def start(**more: str) -> dict[str, Process]:
        [port] = free_ports(1)
        service.environment |= {
            "ALLOCATION_PORT": str(port),
            "ALLOCATION_API_WORKERS": "1",
            "WAREHOUSE_DATABASE_URL": empty_database_url,
        } | more
        python = [sys.executable, "-m"]
        asked = {
            "api": ([*python, "allocation", "api"], "The API is ready"),
            "worker": ([*python, "celery", "-A", "allocation", "worker", "-c1"], "celery@.* ready"),
            "relay": ([*python, "allocation", "relay"], "ready: relaying"),
            "warehouse": ([*python, "workers.warehouse"], "ready: consuming"),
        }
        started = {
            name: service.start_process(command, name=name, env=service.environment)
            for name, (command, _) in asked.items()
        }
        for name, (_, ready) in asked.items():
            started[name].wait_for_log(ready, within=40)
        return started

    return start


def create_batch(service: Service, warehouse: Engine) -> str:
    """Ask for a batch by HTTP; returns the command's id once all that follows has happened."""
    request = Request(
        f"http://127.0.0.1:{service.environment['ALLOCATION_PORT']}/v1/batches",
        data=json.dumps({"batchref": "b1", "sku": "LAMP", "qty": 1}).encode(),
        headers={"Content-Type": "application/json", "traceparent": CALLER},
    )
    with urlopen(request, timeout=30) as answer:
        command_id: str = json.load(answer)["id"]

    def settled() -> bool:
        with service.engine.connect() as connection:
            waiting = progress.waiting(connection)
        with warehouse.connect() as connection:
            next_event = connection.scalar(select(tables.progress.c.next_sequence))
        return (waiting, next_event) == (0, 2)

    eventually(settled, within=30, what="all that follows")
    return command_id


def test_every_process_sends_its_last_spans_before_it_ends(
    service: Service, start_all: StartAll, collector: Collector, warehouse: Engine
) -> None:
    """Also those that are forked; each under a service's name of its own."""
    started = start_all(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="3600000"
    )
    create_batch(service, warehouse)
    assert collector.spans == []

    assert {name: process.stop() for name, process in started.items()} == dict.fromkeys(started, 0)

    assert sorted(collector.spans) == [
        ("allocation-api", "POST /v1/batches", TRACE),
        ("allocation-relay", "publish allocation.create_batch", TRACE),
        ("allocation-worker", "process allocation.create_batch", TRACE),
        ("allocation-worker", "publish allocation.batch_created.v1", TRACE),
        ("warehouse", "process allocation.batch_created.v1", TRACE),
    ]


def test_a_trace_that_nobody_began_has_the_id_that_the_log_lines_name(
    service: Service, client: BareClient, start_all: StartAll, collector: Collector
) -> None:
    """The correlation id; and OTEL_SERVICE_NAME says what the service is called."""
    start_all(
        OTEL_EXPORTER_OTLP_ENDPOINT=collector.url,
        OTEL_BSP_SCHEDULE_DELAY="100",
        OTEL_SERVICE_NAME="shop",
    )

    command_id = client.send("allocation.allocate", orderid="o1", sku="LAMP", qty=1)

    taken = ("shop", "process allocation.allocate", UUID(command_id).hex)
    eventually(lambda: collector.spans == [taken], what="the span")


def test_the_span_of_a_command_that_nobody_could_decide_says_why(
    service: Service, client: BareClient, start_all: StartAll, collector: Collector
) -> None:
    """One that is refused by a rule is decided, and no failure."""
    start_all(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="100")
    refused = client.send("allocation.allocate", orderid="o1", sku="NOBODY-HAS-IT", qty=1)
    assert service.outcome(refused)[0] == "rejected"
    service.refuse_rows("products")

    client.send("allocation.create_batch", batchref="b1", sku="LAMP", qty=1)

    eventually(lambda: len(collector.spans) == 2, what="both spans")
    why = "InternalError: (psycopg2.errors.RaiseException) no row of products is taken"
    assert collector.failed == [("process allocation.create_batch", why)]


def test_on_the_embedded_default_it_is_the_same(
    processes: Callable[..., Process], collector: Collector, state_dir: Path
) -> None:
    """There a command is decided by itself, as the task that it is."""
    environment = {
        "ALLOCATION_STATE_DIR": str(state_dir),
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }
    python = [sys.executable, "-m"]
    migrate = [*python, "allocation", "migrate"]
    assert processes(migrate, name="migrate", env=environment).wait(30) == 0
    worker = [*python, "celery", "-A", "allocation", "worker", "-c1"]
    processes(worker, name="worker", env=environment).wait_for_log("celery@.* ready")
    processes([*python, "allocation", "relay"], name="relay", env=environment)
    engine = database.engine(f"sqlite:///{state_dir}/allocation.db")

    accept(message(Allocate("o1", "LAMP", 1), 0xABC), SqlUnitOfWork(engine))

    expected = [
        ("allocation-relay", "publish allocation.allocate", f"{0xABC:032x}"),
        ("allocation-worker", "process allocation.allocate", f"{0xABC:032x}"),
    ]
    eventually(lambda: sorted(collector.spans) == expected, within=20, what="both spans")
    engine.dispose()


def test_each_event_of_a_batch_has_a_span(
    service: Service, start_all: StartAll, collector: Collector
) -> None:
    """With the time of the whole batch, as it is one transaction."""
    traces = [f"{number:032x}" for number in range(1, 4)]
    published = [
        event("allocated", number, orderid=f"o{number}")
        | {"traceparent": f"00-{trace_id}-b7ad6b7169203331-01"}
        for number, trace_id in enumerate(traces, 1)
    ]
    publish(service.broker_url, *published)

    start_all(OTEL_EXPORTER_OTLP_ENDPOINT=collector.url, OTEL_BSP_SCHEDULE_DELAY="100")

    name = "process allocation.allocated.v1"
    expected = [("warehouse", name, trace_id) for trace_id in traces]
    eventually(lambda: sorted(collector.spans) == expected, what="three spans")


def test_a_collector_that_is_away_harms_nobody(
    service: Service, start_all: StartAll, warehouse: Engine
) -> None:
    """Commands are decided, and every process ends as fast as it should."""
    [nowhere] = free_ports(1)
    started = start_all(OTEL_EXPORTER_OTLP_ENDPOINT=f"http://127.0.0.1:{nowhere}")

    command_id = create_batch(service, warehouse)

    assert service.outcome(command_id)[0] == "succeeded"
    ended = {name: process.stop(within=15) for name, process in started.items()}
    assert ended == dict.fromkeys(started, 0)
    assert [proof.promise for proof in audit.run(service.engine) if not proof.holds] == []


def test_without_the_extra_the_service_says_so_and_works(
    service: Service, start_all: StartAll, warehouse: Engine, tmp_path: Path
) -> None:
    """Though somebody asks for spans; the trace context is carried all the same."""
    absent = tmp_path / "absent"
    sdk = absent / "opentelemetry" / "sdk"
    sdk.mkdir(parents=True)
    (sdk / "__init__.py").write_text(
        "raise ModuleNotFoundError('No module named opentelemetry.sdk', name='opentelemetry.sdk')"
    )

    started = start_all(OTEL_EXPORTER_OTLP_ENDPOINT="http://127.0.0.1:9", PYTHONPATH=str(absent))
    create_batch(service, warehouse)

    for process in started.values():
        process.wait_for_log(r"no spans are recorded: install allocation\[otel\]")
    with service.engine.connect() as connection:
        assert set(connection.scalars(select(outbox.c.traceparent))) == {CALLER}
