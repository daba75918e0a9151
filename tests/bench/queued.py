"""Commands as Celery messages, and getting them into the queue: many at once, each confirmed."""

import json
import random
from collections.abc import Iterable, Sequence
from uuid import UUID

import amqp
from celery import Celery
from kombu import Connection

from tests.bench.deployment import COMMANDS
from tests.bench.pipeline import Pipeline

AT_ONCE = 500
"""Messages sent before their confirms are awaited."""

# Any service with any Celery client can enqueue by name; so does this one.
_client = Celery("bench", set_as_current=False)


def allocate_messages(prefix: str, number: int, skus: Sequence[str]) -> dict[str, amqp.Message]:
    """`allocate` of one piece each, over the skus in a random order; by orderid: `prefix`0 ..."""
    chance = random.Random(prefix)
    positions = list(range(number))
    chance.shuffle(positions)
    return {
        f"{prefix}{position}": allocate_message(
            UUID(int=chance.getrandbits(128)), f"{prefix}{position}", skus[position % len(skus)]
        )
        for position in positions
    }


def allocate_message(command_id: UUID, orderid: str, sku: str) -> amqp.Message:
    fields = {"orderid": orderid, "sku": sku, "qty": 1}
    task = _client.amqp.as_task_v2(
        str(command_id),
        "allocation.allocate",
        kwargs=fields,
        ignore_result=True,
        # Celery's own way to the same text takes longer than all the rest.
        argsrepr="()",
        kwargsrepr=repr(fields),
    )
    return amqp.Message(
        json.dumps(task.body),
        content_type="application/json",
        content_encoding="utf-8",
        delivery_mode=2,
        application_headers=task.headers,
        **task.properties,
    )


def publish(broker: str, messages: Iterable[amqp.Message]) -> None:
    """Put them into the commands' queue."""
    with Connection(broker) as connection:
        Pipeline(connection).publish(
            list(messages), exchange=COMMANDS, routing_key=COMMANDS, at_once=AT_ONCE
        )
