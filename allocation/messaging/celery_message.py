"""A Celery task as a message of Celery's protocol 2, made without Celery.

tests/unit/messaging/test_celery_message.py compares it with what Celery itself makes.
"""

import socket
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from os import getpid
from typing import Any

SLOTS = 64
"""A queue that is divided is divided by these; each of its parts has one or more."""

_LONGEST_REPR = 1024
"""Characters of the arguments that monitoring is shown, as Celery's own limit."""


@dataclass(frozen=True, slots=True)
class CeleryMessage:
    """`body` is sent as JSON; `properties` are those of AMQP."""

    headers: dict[str, Any]
    properties: dict[str, str]
    body: list[Any]


def celery_message(
    task: str,
    task_id: str,
    fields: Mapping[str, Any],
    *,
    root_id: str | None = None,
    parent_id: str | None = None,
    slot_by: object = None,
) -> CeleryMessage:
    """The message that calls `task` with `fields` as keyword arguments; no result is kept.

    `root_id` is the id of the task that began it all, by default this one; `parent_id` that of the
    task that sent this one. Messages with the same text as `slot_by` come to the same part of a
    divided queue.
    """
    headers: dict[str, Any] = {
        "lang": "py",
        "task": task,
        "id": task_id,
        "shadow": None,
        "eta": None,
        "expires": None,
        "group": None,
        "group_index": None,
        "retries": 0,
        "timelimit": [None, None],
        "root_id": root_id or task_id,
        "parent_id": parent_id,
        "argsrepr": "()",
        "kwargsrepr": repr(fields)[:_LONGEST_REPR],
        "origin": f"gen{getpid()}@{socket.gethostname()}",
        "ignore_result": True,
        "replaced_task_nesting": 0,
        "stamped_headers": None,
        "stamps": {},
    }
    if isinstance(slot_by, str):
        # RabbitMQ routes by these as by the routing key; a queue that is not divided ignores them.
        headers["CC"] = [slot(slot_by)]
    # The last part is for callbacks and chains; Celery takes an empty one for none.
    return CeleryMessage(headers, {"correlation_id": task_id, "reply_to": ""}, [[], fields, {}])


def slot(key: str) -> str:
    """The routing key of the slot that messages about `key` have."""
    return slot_name(zlib.crc32(key.encode("utf-8", "surrogatepass")) % SLOTS)


def slot_name(number: object) -> str:
    # One word: the exchanges of delayed messages take digits between dots for a delay.
    return f"slot-{number}"
