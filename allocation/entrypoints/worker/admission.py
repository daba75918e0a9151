"""Strict admission: an invalid message never reaches Celery.

Celery acknowledges and so drops a message that it can't decode, and some messages that decode end
its main loop. Admission dead-letters them instead, with the reason in their headers.
"""

import time
from collections.abc import Callable, Container
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import structlog
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.message import Message

from allocation.messaging.dead_letters import LARGEST_BODY, Details

log = structlog.get_logger(__name__)

LONGEST_LIMIT = 3600.0  # seconds
LONGEST_DELAY = 2.0**28  # seconds, eight years: what the broker can hold


class Inadmissible(Exception):
    """The message is not a valid command. Its text says why; `reason` is the dead letter's."""

    reason = "unreadable"


class UnknownTask(Inadmissible):
    """A newer worker may know the task: the dead letter can be replayed once there is one."""

    reason = "unknown task"


class Admission:
    """Decides which messages the worker takes."""

    def __init__(
        self,
        known: Container[str],
        dead_letter: Callable[[Message, Details], bool],
        postpone: Callable[[Message, float], bool],
        connection_errors: tuple[type[Exception], ...],
    ) -> None:
        """`known` are the names of tasks.

        `dead_letter` and `postpone` copy a message to where it is kept, or held for some seconds;
        they return False unless the broker has the copy. `connection_errors` are logged when a
        lost connection takes no acknowledgement.
        """
        self._known = known
        self._dead_letter = dead_letter
        self._postpone = postpone
        self._connection_errors = connection_errors

    def admit(self, message: Message) -> bool:
        """Return whether the worker is to take the message; else it is settled already."""
        try:
            check(message, self._known)
            delay = seconds_until_due(message)
        except Inadmissible as problem:
            self.turn_away(message, str(problem), problem.reason)
            return False
        # Held by this worker, a few such messages would fill its prefetch and stop it.
        if delay > 1 and self._postpone(message, delay):
            message.ack_log_error(log, self._connection_errors)
            return False
        return True

    def turn_away(self, message: Message, error: str, reason: str = Inadmissible.reason) -> None:
        """Dead-letter a message that is not a valid command."""
        log.error(
            "not a command: the message is dead-lettered",
            reason=error[:1000],
            command=str((message.headers or {}).get("task"))[:100],
            command_id=str((message.headers or {}).get("id"))[:100],
        )
        if self._dead_letter(message, {"reason": reason, "error": error[:1000]}):
            message.ack_log_error(log, self._connection_errors)
        else:
            # The broker then moves it by itself, without the reason.
            message.reject_log_error(log, self._connection_errors)


def check(message: Message, known: Container[str]) -> None:
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
        raise Inadmissible(f"the header task is {name!r}, not a name")
    if not name.startswith("allocation.") or name not in known:
        raise UnknownTask(f"the task {name!r} is unknown")
    _check_headers(headers)
    try:
        body = message.payload
    except (DecodeError, ContentDisallowed, LookupError, RecursionError) as error:
        raise Inadmissible(f"the body is not JSON: {error}") from error
    _check_body(body)


def seconds_until_due(message: Message) -> float:
    """How long the command is to be postponed; an ETA without a time zone is UTC."""
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
            raise Inadmissible(f"the header {name} belongs to a canvas; canvases are not accepted")


def _limit(value: object) -> bool:
    return value is None or (type(value) in (int, float) and 1 <= value <= LONGEST_LIMIT)  # type: ignore[operator]


def _parse(headers: dict[str, Any], name: str, parse: Callable[[str], object]) -> None:
    value = headers.get(name)
    try:
        if not isinstance(value, str):
            raise TypeError("it is not a text")
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
            raise Inadmissible(f"the body has a {name}; canvases are not accepted")
