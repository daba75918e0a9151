"""Row 10: what an event costs a subscriber and its database, beside inserting the events alone."""

import json
import os
import signal
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from time import thread_time
from typing import Any
from uuid import uuid4

import amqp
from kombu import Connection
from psycopg2.extras import execute_values

from allocation.contract import codec
from allocation.domain.commands import Allocate
from allocation.domain.events import Allocated, BatchQuantityChanged, Event
from allocation.service_layer.unit_of_work import Message
from tests.bench import stock
from tests.bench.bench import Bench
from tests.bench.deployment import Deployment
from tests.bench.figures import Figure, Goal, Spread
from tests.bench.pipeline import Pipeline
from tests.bench.servers import connect, query
from tests.waiting import eventually

EVENTS = 20_000
"""Of each kind in each round: lines that are allocated, and events that no subscriber uses."""
SKUS = 1000
BATCH = 200
"""Events of one transaction of the limit: as many as a subscriber's."""
EXCHANGE = "allocation.events"
LONGEST = 120.0  # seconds for the events of one round
AT_MOST = {"warehouse": 4.9, "notification": 2.4}
"""Of the limit: a half of what they needed before their batches became few statements."""
NAMES = tuple(AT_MOST)
_TICKS = os.sysconf("SC_CLK_TCK")
_BACKENDS = """
    SELECT pid FROM pg_stat_activity
    WHERE datname = current_database() AND backend_type = 'client backend'
        AND pid <> pg_backend_pid()"""
_TAKEN = "SELECT count(*) FROM received"
_LIMIT_TABLES = """
    CREATE TABLE received (event_id uuid PRIMARY KEY, sku text NOT NULL, sequence bigint NOT NULL,
        received_at timestamptz NOT NULL DEFAULT now());
    CREATE TABLE progress (sku text PRIMARY KEY, next_sequence bigint NOT NULL);
    CREATE TABLE lines (sku text, sequence bigint, orderid text NOT NULL, qty integer NOT NULL,
        batchref text NOT NULL, PRIMARY KEY (sku, sequence))"""
_RECEIVED = "INSERT INTO received (event_id, sku, sequence) VALUES %s"
_PROGRESS = """
    INSERT INTO progress (sku, next_sequence) VALUES %s
    ON CONFLICT (sku) DO UPDATE SET next_sequence = excluded.next_sequence"""
_LINES = "INSERT INTO lines (sku, sequence, orderid, qty, batchref) VALUES %s"


class Subscribing:
    """Both subscribers take the same events one after the other, which wait in their queues."""

    def __init__(self, bench: Bench, _wanted: Collection[str]) -> None:
        self._bench = bench
        self._skus = stock.skus(SKUS)
        self._sequence = 0
        self._limits: list[float] = []
        self._found: dict[tuple[str, str], list[float]] = {}

    def prepare(self) -> None:
        self._bench.show.step("subscriber: starting both")
        self._deployment = Deployment(self._bench.servers, "subscribers")
        self._deployment.start(*NAMES)
        self._limit_database = self._bench.servers.empty_database()
        self._bench.servers.opened.callback(self._bench.servers.drop, self._limit_database)
        query(self._limit_database, _LIMIT_TABLES)
        self._take(self._allocated(2))

    def round(self, number: int) -> None:
        show = self._bench.show
        each = max(1, self._bench.some(EVENTS) // SKUS)
        show.step(f"subscriber, round {number}: allocated lines")
        messages = self._allocated(each)
        limit = self._insert(messages)
        self._limits.append(limit)
        costs = self._take(messages)
        show.step(f"subscriber, round {number}: events that nobody uses")
        ignored = self._take(self._ignored(each))
        for kind, found in (("allocated", costs), ("ignored", ignored)):
            for name, (own, database) in found.items():
                show.say(
                    f"subscriber, round {number}: {name}, {kind}: {own:.1f} us and"
                    f" {database:.1f} us of PostgreSQL; the limit {limit:.1f} us"
                )
                self._found.setdefault((name, kind), []).append(own + database)
                self._found.setdefault((name, f"{kind}: own"), []).append(own)

    def figures(self) -> list[Figure]:
        return [
            Figure(
                name=f"subscriber: processor time an event, {name}",
                unit="us",
                measured=Spread.of(found := self._found[name, "allocated"]),
                limit=Spread.of(self._limits),
                limit_name=f"inserting them by psycopg2, {BATCH} at a time",
                goals=(Goal.between("of the limit", found, self._limits, at_most=AT_MOST[name]),),
                notes=(
                    f"{Spread.of(self._found[name, 'allocated: own'])} us of them its process;"
                    f" an event that it ignores {Spread.of(self._found[name, 'ignored'])} us,"
                    f" {Spread.of(self._found[name, 'ignored: own'])} of them its process",
                ),
            )
            for name in NAMES
        ]

    def _allocated(self, each: int) -> list[amqp.Message]:
        return self._messages(each, lambda sku, n: Allocated(f"{sku}-{n}", sku, 1, f"{sku}-batch"))

    def _ignored(self, each: int) -> list[amqp.Message]:
        return self._messages(each, lambda sku, n: BatchQuantityChanged(f"{sku}-batch", sku, n))

    def _messages(self, each: int, make: Callable[[str, int], Event]) -> list[amqp.Message]:
        """The next events of each sku, so many of each, as the relay publishes them."""
        first, self._sequence = self._sequence + 1, self._sequence + each
        return [
            _message(replace(make(sku, sequence), sequence=sequence))
            for sequence in range(first, first + each)
            for sku in self._skus
        ]

    def _take(self, messages: Sequence[amqp.Message]) -> dict[str, tuple[float, float]]:
        """Microseconds an event of each subscriber: its own, and those of its database."""
        processes = {name: self._deployment.pids(name)[0] for name in NAMES}
        found = {}
        for pid in processes.values():
            os.kill(pid, signal.SIGSTOP)
        try:
            with Connection(self._deployment.broker) as connection:
                Pipeline(connection).publish(
                    messages, exchange=EXCHANGE, routing_key="", at_once=500
                )
            for name, database in (
                ("warehouse", self._deployment.warehouse),
                ("notification", self._deployment.notification),
            ):
                [(before,)] = query(database, _TAKEN)
                query(database, "CHECKPOINT")
                backends = [backend for (backend,) in query(database, _BACKENDS)]
                own, behind = _seconds(processes[name]), sum(map(_seconds, backends))
                os.kill(processes[name], signal.SIGCONT)
                eventually(
                    lambda: not self._deployment.depth(f"{name}.events"),  # noqa: B023 - asked now
                    within=LONGEST,
                    what=f"an empty queue of {name}",
                )
                eventually(
                    lambda: query(database, _TAKEN) == [(before + len(messages),)],  # noqa: B023
                    what=f"all events at {name}",
                )
                found[name] = (
                    (_seconds(processes[name]) - own) / len(messages) * 1e6,
                    (sum(map(_seconds, backends)) - behind) / len(messages) * 1e6,
                )
        finally:
            for pid in processes.values():
                os.kill(pid, signal.SIGCONT)
        return found

    def _insert(self, messages: Sequence[amqp.Message]) -> float:
        """Microseconds an event: what must be stored of it at least, many rows at a time."""
        connection = connect(self._limit_database)
        connection.autocommit = False
        try:
            with connection.cursor() as cursor:
                backend = connection.info.backend_pid
                own, behind = thread_time(), _seconds(backend)
                for start in range(0, len(messages), BATCH):
                    _insert(cursor, [json.loads(m.body) for m in messages[start : start + BATCH]])
                    connection.commit()
                own, behind = thread_time() - own, _seconds(backend) - behind
        finally:
            connection.close()
        return (own + behind) / len(messages) * 1e6


def _insert(cursor: Any, events: Sequence[Any]) -> None:
    numbers = [(event["subject"], event["sequence"]) for event in events]
    execute_values(
        cursor,
        _RECEIVED,
        [(event["id"], *number) for event, number in zip(events, numbers, strict=True)],
        page_size=BATCH,
    )
    execute_values(cursor, _PROGRESS, list(dict(numbers).items()), page_size=BATCH)
    execute_values(
        cursor,
        _LINES,
        [
            (*number, data["orderid"], data["qty"], data["batchref"])
            for number, data in zip(numbers, (event["data"] for event in events), strict=True)
        ],
        page_size=BATCH,
    )


def _message(event: Event) -> amqp.Message:
    cause = Message(uuid4(), Allocate("order", "sku", 1), uuid4())
    body = codec.cloud_event(event, cause, datetime.now(UTC))
    return amqp.Message(
        json.dumps(body),
        content_type="application/cloudevents+json",
        content_encoding="utf-8",
        delivery_mode=2,
        message_id=body["id"],
    )


def _seconds(pid: int) -> float:
    """Processor time of a process."""
    told = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(told[11]) + int(told[12])) / _TICKS
