"""The limit of the first rows: allocate by psycopg2 alone, one transaction a command.

These are the statements that one allocate needs here, and none more: the service also asks whether
somebody waits for the sku, holds the event against its contract, and keeps Celery's promises. What
can be made before is made before the clock starts; the answer of one statement is used by the next.
Run as a process, it has a thread for each connection:
`python -m tests.bench.one_transaction DSN CONNECTIONS`.
"""

import json
import random
import sys
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any, NamedTuple
from uuid import UUID

import psycopg2

from tests.bench.helper import serve

PRODUCT = "SELECT sku, version, sequence FROM products WHERE sku = %s FOR UPDATE"
OPEN_BATCHES = """
    SELECT batchref, purchased, allocated, eta FROM batches
    WHERE sku = %s AND allocated < purchased"""
LINE = """
    SELECT qty, age, batchref, promised_at, told FROM allocations
    WHERE orderid = %s AND sku = %s"""
INBOX = "SELECT name, body, status, outcome FROM commands WHERE id = %s FOR UPDATE"
INSERT_LINE = """
    INSERT INTO allocations (orderid, sku, qty, age, batchref, promised_at, told)
    VALUES (%s, %s, %s, %s, %s, %s, false)"""
UPDATE_BATCH = "UPDATE batches SET allocated = %s WHERE batchref = %s"
UPDATE_PRODUCT = "UPDATE products SET version = %s, sequence = %s WHERE sku = %s"
INSERT_COMMAND = """
    INSERT INTO commands
        (id, name, body, status, outcome, correlation_id, accepted_at, decided_at)
    VALUES (%s, 'allocation.allocate', %s, 'succeeded', %s, %s, %s, %s)"""
INSERT_EVENT = """
    INSERT INTO outbox
        (id, kind, name, sku, sequence, body, correlation_id, causation_id, created_at)
    VALUES (%s, 'event', 'allocation.allocated.v1', %s, %s, %s, %s, %s, %s)"""
NOTIFY = "SELECT pg_notify('allocation_outbox', '')"


class Command(NamedTuple):
    """The parameters of one command; `event` lacks the sequence and the batch (`%` formats it)."""

    id: str
    orderid: str
    sku: str
    body: str
    event_id: str
    event: str
    at: datetime


def prepare(prefix: str, number: int, skus: list[str]) -> list[Command]:
    """`number` commands of one piece each, spread over the skus."""
    chance = random.Random(prefix)
    at = datetime.now(UTC)
    made = []
    for position in range(number):
        sku = skus[position % len(skus)]
        command_id, event_id = (str(UUID(int=chance.getrandbits(128))) for _ in range(2))
        line = {"orderid": f"{prefix}{position}", "sku": sku, "qty": 1}
        event = {
            "specversion": "1.0",
            "id": event_id,
            "source": "allocation",
            "type": "allocation.allocated.v1",
            "subject": sku,
            "time": at.isoformat(),
            "datacontenttype": "application/json",
            "sequence": "SEQUENCE",
            "causationid": command_id,
            "causationtype": "allocation.allocate",
            "correlationid": command_id,
            "data": {**line, "batchref": "BATCHREF"},
        }
        template = json.dumps(event).replace('"SEQUENCE"', "%d").replace("BATCHREF", "%s")
        body = json.dumps(line)
        made.append(Command(command_id, str(line["orderid"]), sku, body, event_id, template, at))
    chance.shuffle(made)
    return made


def allocate(cursor: Any, command: Command) -> None:
    """One command, all but its commit."""
    cursor.execute(PRODUCT, (command.sku,))
    _, version, sequence = cursor.fetchone()
    cursor.execute(OPEN_BATCHES, (command.sku,))
    batchref, _, allocated, _ = cursor.fetchone()
    cursor.execute(LINE, (command.orderid, command.sku))
    assert cursor.fetchone() is None
    cursor.execute(INBOX, (command.id,))
    assert cursor.fetchone() is None
    version, sequence = version + 1, sequence + 1
    cursor.execute(INSERT_LINE, (command.orderid, command.sku, 1, version, batchref, sequence))
    cursor.execute(UPDATE_BATCH, (allocated + 1, batchref))
    cursor.execute(UPDATE_PRODUCT, (version, sequence, command.sku))
    outcome = '{"status": "allocated", "batchref": "%s", "eta": null}' % batchref  # noqa: UP031
    cursor.execute(
        INSERT_COMMAND,
        (command.id, command.body, outcome, command.id, command.at, command.at),
    )
    event = command.event % (sequence, batchref)
    cursor.execute(
        INSERT_EVENT,
        (
            *(command.event_id, command.sku, sequence, event),
            *(command.id, command.id, command.at),
        ),
    )
    cursor.execute(NOTIFY)


def run_all(connection: Any, commands: list[Command]) -> None:
    """Each command, and its commit."""
    with connection.cursor() as cursor:
        for command in commands:
            allocate(cursor, command)
            connection.commit()


def main(dsn: str, threads: int) -> None:
    connections = [psycopg2.connect(dsn) for _ in range(threads)]
    for connection in connections:
        connection.set_session(isolation_level="READ COMMITTED")
    work: list[list[Command]] = []

    def take(prefix: str, number: int, skus: list[str], threads: int = 1) -> int:
        """`number` commands for each of so many threads."""
        work[:] = [prepare(f"{prefix}{thread}-", number, skus) for thread in range(threads)]
        return len(work)

    def run() -> int:
        if len(work) == 1:
            run_all(connections[0], work[0])
        else:
            with ThreadPoolExecutor(len(work)) as pool:
                list(pool.map(run_all, connections, work))
        return len(work)

    serve(prepare=take, run=run)


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
