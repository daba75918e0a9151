"""Strict admission: what is no well-formed command never reaches Celery, and harms nobody else.

Celery acknowledges and so drops what it can't decode, and some well-decoded nonsense ends its main
loop. Here such a message is rejected, and the broker moves it to the dead-letter queue.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Any
from uuid import UUID

import structlog
from celery.worker.consumer import Consumer
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import Message

log = structlog.get_logger(__name__)

LARGEST_BODY = 256 * 1024  # bytes; the largest command of the contract has about 4 KiB


class Inadmissible(Exception):
    """The message is no command; its text says why."""


class StrictConsumer(Consumer):
    """Celery's consumer, behind the admission."""

    def create_task_handler(self, *args: Any, **options: Any) -> Callable[[Message], None]:
        handle = super().create_task_handler(*args, **options)

        def admit_and_handle(message: Message) -> None:
            try:
                check(message, self.app.tasks)
            except Inadmissible as reason:
                self._turn_away(message, str(reason))
            else:
                handle(message)

        return admit_and_handle

    def on_decode_error(self, message: Message, exc: Exception) -> None:
        self._turn_away(message, f"the body can't be read: {exc}")

    def _turn_away(self, message: Message, reason: str) -> None:
        log.error(
            "not a command: the message goes to the dead-letter queue",
            reason=reason,
            task=str((message.headers or {}).get("task"))[:100],
            id=str((message.headers or {}).get("id"))[:100],
        )
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
    if not isinstance(name, str) or not name.startswith("allocation.") or name not in known:
        raise Inadmissible(f"the task {name!r} is not known here")
    _check_headers(headers)
    try:
        body = message.payload
    except (DecodeError, ContentDisallowed, LookupError, RecursionError) as error:
        raise Inadmissible(f"the body is not JSON: {error}") from error
    _check_body(body)


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
    if not (
        isinstance(limits, (list, tuple))
        and len(limits) == 2
        and all(limit is None or type(limit) in (int, float) for limit in limits)
    ):
        raise Inadmissible(f"the header timelimit is {limits!r}, not two numbers")
    for name in ("group", "stamps", "stamped_headers"):
        if headers.get(name):
            raise Inadmissible(f"the header {name} belongs to a canvas; commands stand alone")


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
