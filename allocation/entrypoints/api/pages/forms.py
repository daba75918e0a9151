"""Forms: what was typed becomes a command, which is accepted, or what is wrong is said."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from uuid import UUID, uuid4

from flask import g, request

from allocation.contract import registry
from allocation.contract.identifiers import trimmed
from allocation.domain.commands import Command
from allocation.entrypoints.api.http import intake
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.pages import reasons
from allocation.service_layer.unit_of_work import Message
from allocation.views import Json

TIMEOUT = 5
"""Seconds that a form waits for its outcome."""

FIXED = "Nothing was saved: correct the fields below."


@dataclass(frozen=True, slots=True)
class Form:
    """What was typed into a form, and what is wrong with it by field, and as a whole.

    `command_id` makes it take effect once, however often it is sent.
    """

    values: Mapping[str, str]
    command_id: UUID = field(default_factory=uuid4)
    errors: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


def typed(name: str) -> Json:
    """The fields of the command `name` that were filled in, numbers as numbers."""
    fields = registry.schema(name)["properties"]
    given = {each: trimmed(text) for each, text in request.form.items() if each in fields}
    return {
        each: int(text) if "integer" in fields[each].get("type", ()) and _is_whole(text) else text
        for each, text in given.items()
        if text
    }


def accept(command: Command) -> UUID:
    """Accept what the form asks, once; its id. Raises Problem if a rule refuses it by then."""
    command_id = sent_id()
    message = Message(command_id, command, correlation_id=command_id, traceparent=g.traceparent)
    decided = intake.take([message], TIMEOUT).decided
    if command_id in decided:
        outcome = intake.outcome(command, decided[command_id])
        if isinstance(outcome, Problem):
            raise outcome
    return command_id


def again(name: str, body: Json, problem: Problem) -> Form:
    """The form as it was sent, with what is wrong."""
    # Sent again it is another command: under the old id it would stay refused.
    return Form(request.form.to_dict(), uuid4(), *_wrong(name, body, problem))


def sent_id() -> UUID:
    """The command's id that the form has, or a new one."""
    try:
        return UUID(request.form.get("command_id", ""))
    except ValueError:
        return uuid4()


def _wrong(name: str, body: Json, problem: Problem) -> tuple[dict[str, str], str]:
    """What is wrong with each field of the form, and what to say above all of them."""
    if problem.kind and problem.status == 409:
        refusal = reasons.refusal(problem.kind, {**body, **problem.members})
        errors = {error["field"]: refusal for error in problem.errors}
    else:
        refusal = problem.detail
        errors = {
            error["field"]: reasons.field(name, error["field"], error["problem"])
            for error in problem.errors
        }
    shown = {field: text for field, text in errors.items() if field in request.form}
    if errors and shown == errors:
        return shown, FIXED
    return shown, refusal


def _is_whole(text: str) -> bool:
    return text.removeprefix("-").isdecimal() and len(text) < 20
