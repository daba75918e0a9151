"""What is known of one message everywhere: rows, dead letters and log lines."""

import json
from collections.abc import Iterable, Iterator
from typing import Any

from kombu import Connection
from sqlalchemy import Engine, text

from allocation.adapters.rabbitmq import topology
from tests.faults.load import Load
from tests.faults.system import System

Letter = tuple[str, dict[str, Any], str]
"""Queue, headers and body of a dead letter."""


def dead_letters(broker_url: str, names: Iterable[str] | None = None) -> list[Letter]:
    """Every dead letter; all stay in their queues."""
    letters: list[Letter] = []
    with Connection(broker_url) as connection, connection.channel() as channel:
        for queue in names or topology.dead_queues():
            while (message := channel.basic_get(queue, no_ack=False)) is not None:
                body = message.body
                shown = body.decode(errors="replace") if isinstance(body, bytes) else str(body)
                headers = dict(message.headers or {})
                headers["message_id"] = message.properties.get("message_id")
                letters.append((queue, headers, shown))
    return letters


def history(system: System, load: Load, about: str) -> str:
    """Everything that names `about`: the id of a command or event, an order, a batch or a sku."""
    return "\n".join(_lines(system, load, about))


def _lines(system: System, load: Load, about: str) -> Iterator[str]:
    yield f"--- history of {about}"
    for sent in load.sent.values():
        if about in (str(sent.id), *map(str, sent.body.values())):
            yield f"sent      {sent}"
    like = {"about": f"%{about}%"}
    for name, engine, statement in (
        (
            "commands",
            system.engine,
            "SELECT * FROM commands WHERE id::text LIKE :about OR body::text LIKE :about"
            " OR causation_id::text LIKE :about ORDER BY accepted_at LIMIT 20",
        ),
        (
            "outbox",
            system.engine,
            "SELECT position, id, kind, name, sku, sequence, causation_id, created_at, due_at,"
            " sent_at, body->'data' AS data"
            " FROM outbox WHERE id::text LIKE :about OR body::text LIKE :about"
            " OR causation_id::text LIKE :about ORDER BY position LIMIT 20",
        ),
        ("warehouse", system.warehouse, _RECEIVED),
        ("picks", system.warehouse, "SELECT * FROM picks WHERE orderid LIKE :about LIMIT 20"),
        ("notification", system.notification, _RECEIVED),
    ):
        for row in _rows(engine, statement, like):
            yield f"{name:9} {row}"
    for queue, headers, body in dead_letters(system.addresses.broker):
        if about in json.dumps(headers, default=str) + body:
            yield f"{queue} {headers.get('x-reason')} {headers.get('x-error')} {body[:300]}"
    for member, log in system.logs().items():
        found = [line for line in log.splitlines() if about in line]
        for line in found[:20]:
            yield f"{member:9} {line[:400]}"


_RECEIVED = (
    "SELECT event_id, sku, sequence, held IS NOT NULL AS held, received_at FROM received"
    " WHERE event_id::text LIKE :about LIMIT 20"
)


def _rows(engine: Engine, statement: str, values: dict[str, str]) -> list[dict[str, Any]]:
    with engine.connect() as connection:
        found = connection.execute(text(statement), values).mappings()
        return [{key: str(value)[:200] for key, value in row.items()} for row in found]
