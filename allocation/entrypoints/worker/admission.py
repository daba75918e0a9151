"""Strict admission: what is no well-formed command never reaches Celery, and harms nobody else.

Celery acknowledges and so drops what it can't decode, and some well-decoded nonsense ends its main
loop. Here such a message goes to the dead-letter queue, with the reason in its headers.
"""

import math
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from typing import Any
from uuid import UUID

import structlog
from celery.utils.quorum_queues import detect_quorum_queues
from celery.worker.consumer import Consumer
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import Message
from kombu.transport.native_delayed_delivery import MAX_LEVEL, calculate_routing_key, level_name

from allocation.adapters.rabbitmq import topology
from allocation.entrypoints.worker.app import mover
from allocation.messaging.dead_letters import LARGEST_BODY

log = structlog.get_logger(__name__)

LONGEST_LIMIT = 3600.0  # seconds
LONGEST_DELAY = 2.0**28  # seconds, eight years: what the broker can hold


class Inadmissible(Exception):
    """The message is no command; its text says why, `reason` in a word or two."""

    reason = "unreadable"


class UnknownTask(Inadmissible):
    """It may be one to a newer worker: its dead letter can be replayed once there is one."""

    reason = "unknown task"


class StrictConsumer(Consumer):
    """Celery's consumer, behind the admission."""

    @cached_property
    def _broker_can_delay(self) -> bool:
        driver = self.app.connection_for_write().transport.driver_type
        return bool(detect_quorum_queues(self.app, driver)[0])

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        handle = super().create_task_handler(*args, **options)

        def admit_and_handle(message: Message) -> None:
            try:
                check(message, self.app.tasks)
                delay = seconds_until_due(message)
            except Inadmissible as problem:
                self._turn_away(message, problem.reason, str(problem))
                return
            if not (delay > 1 and self._broker_can_delay and self._postpone(message, delay)):
                handle(message)

        return admit_and_handle

    def _postpone(self, message: Message, delay: float) -> bool:
        """Have the broker hold the message: held here, a few of them would stop this worker."""
        key = calculate_routing_key(math.ceil(delay), topology.COMMANDS)
        postponed = mover().copy(message, level_name(MAX_LEVEL), key, message.headers)
        if postponed:
            message.ack_log_error(log, self.connection_errors)
        return postponed

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        self._turn_away(message, Inadmissible.reason, f"the body can't be read: {exc}")

    def _turn_away(self, message: Message, reason: str, error: str) -> None:
        log.error(
            "not a command: the message goes to the dead-letter queue",
            reason=error[:1000],
            command=str((message.headers or {}).get("task"))[:100],
            command_id=str((message.headers or {}).get("id"))[:100],
        )
        if mover().dead_letter(message, topology.DEAD, {"reason": reason, "error": error[:1000]}):
            message.ack_log_error(log, self.connection_errors)
        else:
            # The broker then moves it by itself, without the reason.
            message.reject_log_error(log, self.connection_errors)


def check(message: Message, known: Any) -> None:
    """Raise Inadmissible unless `message` is a Celery protocol 2 message of a task in `known`."""
    headers = message.headers or {}
    if len(message.body) > LARGEST_BODY:
        raise Inadmissible(f"the body has {len(message.body)} bytes, more than {LARGEST_BODY}")
    if message.content_type != "application/json":
        raise Inadmissible(f"the content type is {message.content_type!r}, not application/json")
    if str(message.content_encoding).lower() != "utf-8":
        raise Inadmissible(f"the content encoding is {message.content_encoding!r}, not utf-8")
    name = headers.get("task")
    if not isinstance(name, str):
        raise Inadmissible(f"the header task is {name!r}, no name")
    if not name.startswith("allocation.") or name not in known:
        raise UnknownTask(f"the task {name!r} is not known here")
    _check_headers(headers)
    try:
        body = message.payload
    except (DecodeError, ContentDisallowed, LookupError, RecursionError) as error:
        raise Inadmissible(f"the body is not JSON: {error}") from error
    _check_body(body)


def seconds_until_due(message: Message) -> float:
    """How long the command asks to be put off; a moment without a zone is UTC."""
    if message.headers.get("eta") is None:
        return 0
    due = datetime.fromisoformat(message.headers["eta"])
    delay = (due if due.tzinfo else due.replace(tzinfo=UTC)).timestamp() - time.time()
    if delay >= LONGEST_DELAY:
        raise Inadmissible(f"the header eta is {message.headers['eta']!r}, more than 8 years ahead")
    return delay


def _check_headers(headers: dict[str, Any]) -> None:
    _parse(headers, "id", UUID)
    for name in ("root_id", "parent_id"):
        if headers.get(name) is not None:
            _parse(headers, name, UUID)
    for name in ("eta", "expires"):
        if headers.get(name) is not None:
            _parse(headers, name, datetime.fromisoformat)
    retries = headers.get("retries", 0)
    if type(retries) is not int or not 0 <= retries <= 1000:
        raise Inadmissible(f"the header retries is {retries!r}, not a small number")
    limits = headers.get("timelimit") or [None, None]
    if not (isinstance(limits, (list, tuple)) and len(limits) == 2 and all(map(_limit, limits))):
        raise Inadmissible(
            f"the header timelimit is {limits!r}, not two numbers of seconds from 1 to 3600"
        )
    for name in ("group", "stamps", "stamped_headers"):
        if headers.get(name):
            raise Inadmissible(f"the header {name} belongs to a canvas; commands stand alone")


def _limit(value: object) -> bool:
    return value is None or (type(value) in (int, float) and 1 <= value <= LONGEST_LIMIT)  # type: ignore[operator]


def _parse(headers: dict[str, Any], name: str, parse: Callable[[str], object]) -> None:
    value = headers.get(name)
    try:
        if not isinstance(value, str):
            raise TypeError("it is no text")
        parse(value)
    except (TypeError, ValueError) as error:
        raise Inadmissible(f"the header {name} is {value!r}: {error}") from error


def _check_body(body: object) -> None:
    match body:
        case [list(), dict(), dict() as embedded]:
            pass
        case _:
            raise Inadmissible("the body is not [args, kwargs, embed]")
    for name in ("callbacks", "errbacks", "chain", "chord"):
        if embedded.get(name):
            raise Inadmissible(f"the body has a {name}; commands stand alone")
