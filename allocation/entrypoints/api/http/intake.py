"""Accept commands: 202 once they are committed, or the outcome if the caller waits for it."""

import json
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from http import HTTPStatus
from time import perf_counter
from urllib.parse import unquote
from uuid import UUID, uuid4, uuid5

import structlog
from flask import Response, g, jsonify, request
from sqlalchemy.exc import SQLAlchemyError

from allocation.contract import codec, log_fields
from allocation.domain.commands import Command, Violation
from allocation.entrypoints.api import state
from allocation.entrypoints.api.http import waiting
from allocation.entrypoints.api.http.preconditions import IF_MATCH, VERSION
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.http.waiting import Outcomes
from allocation.service_layer import execution
from allocation.service_layer.unit_of_work import CommandConflict, ConcurrentUpdate, Message
from allocation.views import Json, progress

_IDEMPOTENT_IDS = UUID("0e3ad35e-8c30-4d0e-9d0a-5c2a3f6b7e11")
_CREATED = {"created", "allocated", "reserved"}


@dataclass(frozen=True, slots=True)
class Preference:
    """What the Prefer header asks for: seconds to wait (None: none), and `respond-async`."""

    wait: int | None
    respond_async: bool = False

    def applied(self, *, waited: bool, pending: bool) -> str | None:
        """The value of Preference-Applied: only what was done. None: the header is left out.

        `waited`: the request waited for its outcome; `pending`: the answer is 202.
        """
        honoured = ["respond-async"] if self.respond_async and pending else []
        if self.wait is not None and waited:
            honoured.append(f"wait={self.wait}")
        return ", ".join(honoured) or None


def preference(header: str) -> Preference:
    """Parse the Prefer header. The first of a name counts; invalid ones are ignored."""
    asked: dict[str, str] = {}
    for part in header.split(","):
        name, _, value = part.partition(";")[0].partition("=")
        asked.setdefault(name.strip().lower(), value.strip().strip('"'))
    wait, seconds = None, asked.get("wait", "")
    if seconds.isascii() and seconds.isdigit():
        # Cut before it is counted: the digits may be endless.
        wait = min(int(seconds.lstrip("0")[:3] or "0"), waiting.LONGEST)
    return Preference(wait, asked.get("respond-async") == "")


def answer(command: Command) -> Response:
    """Accept `command` in one transaction; answer 202, or its outcome if the caller waits."""
    command_id = request_id()
    message = Message(command_id, command, correlation_id=command_id, traceparent=g.traceparent)
    preferred = preference(request.headers.get("Prefer", ""))
    outcomes = take([message], preferred.wait)
    pending = command_id not in outcomes.decided
    if not pending:
        response = _decided(command, outcomes.decided[command_id])
    else:
        response = jsonify({"id": str(command_id), "status": "pending"})
    response.headers["Location"] = location(command_id)
    return with_preference(response, preferred, waited=outcomes.waited, pending=pending)


def with_preference(
    response: Response, preferred: Preference, *, waited: bool, pending: bool
) -> Response:
    """The response, as a 202 if it is `pending`, that says what of the preference was honoured."""
    if pending:
        response.status_code = HTTPStatus.ACCEPTED
        response.headers["Retry-After"] = "1"
    if applied := preferred.applied(waited=waited, pending=pending):
        response.headers["Preference-Applied"] = applied
    return response


def request_id() -> UUID:
    """A new id, or the id that this Idempotency-Key stands for, by caller and resource.

    The first command of the request has this id.
    """
    key = request.headers.get("Idempotency-Key")
    if key is None:
        return uuid4()
    if not (1 <= len(key) <= 255 and key.isascii() and key.isprintable()):
        raise Problem("malformed idempotency key")
    resource = unquote(request.path)
    return uuid5(_IDEMPOTENT_IDS, json.dumps([request.method, resource, key, g.caller.name]))


def is_repeat() -> bool:
    """Whether the request has an Idempotency-Key that was accepted before."""
    return "Idempotency-Key" in request.headers and _is_known(request_id())


def take(messages: Sequence[Message], wait: int | None) -> Outcomes:
    """Accept the commands by one commit; the outcomes that are known after `wait` seconds.

    None: wait for no outcome.
    """
    names = log_fields.of_message(messages[0])
    if len(messages) > 1:
        names = {"commands": str(len(messages)), "trace_id": names["trace_id"]}
    structlog.contextvars.bind_contextvars(**names)
    trouble = state.current().load_shedder.trouble()
    if trouble and not _is_known(messages[0].id):
        raise Problem("overloaded", trouble, headers={"Retry-After": "5"})
    if wait is None:
        _accept(messages)
        return Outcomes({}, waited=False)
    api, ids = state.current(), {message.id for message in messages}
    with api.waiter.expecting(ids) as expected:
        known = ids - _accept(messages)
        if expected is None:
            return Outcomes({}, waited=False)
        if known:
            api.waiter.tell(_decided_already(known))
        with api.concurrency.released():
            return expected.wait(wait)


def outcome(command: Command, decided: Json) -> Json | Problem:
    """The outcome of a decided command: its fields and facts, or the problem."""
    facts = dict(decided["outcome"])
    if decided["status"] == "failed":
        return Problem("command failed")
    if decided["status"] == "rejected":
        reason, field = facts.pop("reason"), facts.pop("field")
        field = IF_MATCH if field == VERSION else field
        return Problem(reason, errors=[Violation(field, reason)], **facts)
    fields = codec.command_body(command)
    fields.pop("ttl", None)  # a hold may end at another time than was asked: `expires_at` says when
    fields.pop(VERSION, None)  # the resource has another one by now
    return {**fields, **facts}


def location(command_id: UUID) -> str:
    """The path of the command's status."""
    return f"/v1/commands/{command_id}"


def _is_known(command_id: UUID) -> bool:
    """Whether the command was accepted before: a repeat adds nothing to the backlog."""
    with state.snapshot() as connection:
        return progress.command(connection, command_id) is not None


def _decided_already(commands: Collection[UUID]) -> dict[UUID, Json]:
    """The outcomes that are there; none if the database does not respond."""
    try:
        with state.snapshot() as connection:
            return progress.decided(connection, commands)
    except SQLAlchemyError:
        return {}


def _accept(messages: Sequence[Message]) -> set[UUID]:
    """Accept the commands; the ids that are new."""
    api, began = state.current(), perf_counter()
    try:
        try:
            new = execution.accept_batch(messages, api.dependencies.unit_of_work())
        except ConcurrentUpdate:
            new = execution.accept_batch(messages, api.dependencies.unit_of_work())
    except CommandConflict as error:
        raise Problem("idempotency key reused") from error
    api.metrics.accepted(codec.command_name(messages[0].command), perf_counter() - began)
    return new


def _decided(command: Command, decided: Json) -> Response:
    result = outcome(command, decided)
    if isinstance(result, Problem):
        return result.response()
    response = jsonify(result)
    created = request.method == "POST" and result["status"] in _CREATED
    response.status_code = HTTPStatus.CREATED if created else HTTPStatus.OK
    return response
