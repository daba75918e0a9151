"""Every hop of an order line in one process: prints its trace's spans, as (name, parent) and more.

`python -m tests.integration.tracing_program TRACEPARENT`, with the settings in the environment.
"""

import json
import sys
import threading
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

from celery.concurrency.solo import TaskPool
from celery.contrib.testing.worker import start_worker
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind
from sqlalchemy import select

from allocation import bootstrap
from allocation.adapters.sql.tables import outbox
from allocation.entrypoints import inbound, relay
from allocation.entrypoints.api.app import create_app
from allocation.entrypoints.worker.app import app
from allocation.messaging.resequencer import Resequencer
from allocation.messaging.telemetry import trace_context, tracing
from allocation.messaging.telemetry.subscriber_metrics import SubscriberMetrics
from tests.waiting import eventually
from workers.warehouse import dispatching, pick_list
from workers.warehouse.dispatch_outbox import Relay
from workers.warehouse.messages import parse
from workers.warehouse.running import open_database
from workers.warehouse.settings import Settings
from workers.warehouse.tables import metadata
from workers.wiring import subscriber


class InProcess(TaskPool):
    """Celery's pool of no processes; as the prefork pool does, it gives back a job's place."""

    def apply_async(self, *args: Any, **options: Any) -> None:
        super().apply_async(*args, **options)
        self.options["semaphore"].release()


def main(traceparent: str) -> None:
    """From the request to the dispatch that is told back."""
    spans = InMemorySpanExporter()
    dependencies, of_workers = bootstrap.build(), Settings()
    tracing.start("all", dependencies.settings.broker_transport, spans)
    warehouse = open_database(of_workers)
    resequencer = Resequencer(warehouse, metadata, pick_list.apply, timedelta(seconds=60))
    figures, stop = SubscriberMetrics("warehouse"), threading.Event()
    lasting = [
        partial(relay.run, dependencies, stop),
        partial(inbound.run, dependencies, stop),
        partial(subscriber(of_workers, "warehouse", parse, resequencer, figures).run, stop),
        partial(Relay(warehouse, of_workers, figures.registry).run, stop),
    ]
    threads = [threading.Thread(target=each) for each in lasting]
    with ExitStack() as stack:
        stack.enter_context(start_worker(app, pool=InProcess, perform_ping_check=False))
        for thread in threads:
            thread.start()
            stack.callback(thread.join)
        stack.callback(stop.set)
        client = create_app(dependencies).test_client()
        wait = {"Prefer": "wait=20"}
        batch = {"batchref": "b1", "sku": "LAMP", "qty": 5}
        assert client.post("/v1/batches", json=batch, headers=wait).status_code == 201

        line = {"orderid": "o1", "sku": "LAMP", "qty": 1}
        sent = client.post(
            "/v1/allocations", json=line, headers=wait | {"traceparent": traceparent}
        )
        assert sent.status_code == 201
        eventually(lambda: pick_list.listed(warehouse, "o1"), what="the pick")
        span = tracing.begin("dispatch", SpanKind.INTERNAL, traceparent, {"orderid": "o1"})
        now = datetime.now(UTC)
        dispatching.dispatch(warehouse, dispatching.Wanted("o1"), now, span.traceparent)
        span.end()
        query = select(outbox.c.sent_at).where(outbox.c.name == "allocation.dispatched.v1")

        def told() -> bool:
            with dependencies.engine.connect() as connection:
                sent_at = connection.scalar(query)
            names = [span.name for span in spans.get_finished_spans()]
            return sent_at is not None and "process allocation.dispatched.v1" in names

        eventually(told, within=20, what="the last event")
    ended = spans.get_finished_spans()
    names = {each.context.span_id: each.name for each in ended}
    trace_id = int(trace_context.event_trace_id({"traceparent": traceparent}) or "", 16)
    for each in sorted(ended, key=lambda each: each.start_time or 0):
        if each.context.trace_id == trace_id:
            parent = names.get(each.parent.span_id, "the caller") if each.parent else None
            facts = {"kind": each.kind.name, "status": each.status.status_code.name}
            print(json.dumps([each.name, parent, facts | dict(each.attributes or {})]), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
