"""Batches: put one on the books, look at one, change what it holds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID, uuid4

from flask import Blueprint, g, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from allocation.adapters.sql.api_keys import WRITE
from allocation.contract import codec, registry
from allocation.contract.identifiers import trimmed
from allocation.domain.commands import Command
from allocation.entrypoints.api.auth import security
from allocation.entrypoints.api.http import intake, parsing
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.pages import flash_messages, reasons
from allocation.entrypoints.api.state import snapshot, today
from allocation.service_layer.unit_of_work import Message
from allocation.views import Json, stock

TIMEOUT = 5
"""Seconds that a form waits for its outcome."""

_CREATE, _CHANGE = "allocation.create_batch", "allocation.change_batch_quantity"


@dataclass(frozen=True, slots=True)
class Form:
    """What was typed into a form, and what is wrong with it by field, and as a whole.

    `command_id` makes it take effect once, however often it is sent.
    """

    values: Mapping[str, str]
    command_id: UUID = field(default_factory=uuid4)
    errors: Mapping[str, str] = field(default_factory=dict)
    error: str = ""


def register(blueprint: Blueprint) -> None:
    blueprint.get("/new-batch")(new_batch)
    blueprint.post("/new-batch")(create_batch)
    blueprint.get("/batches/<batchref>")(batch)
    blueprint.post("/batches/<batchref>")(change_batch)


def new_batch() -> str:
    security.check_scope(WRITE)
    return _new(Form(request.args.to_dict()))


def create_batch() -> Response | tuple[str, int]:
    typed = {name: trimmed(text) for name, text in request.form.items() if name in _fields(_CREATE)}
    body = {name: text for name, text in typed.items() if text}
    taken = _take(_CREATE, _numbered(body))
    if isinstance(taken, Response):
        return taken
    form, status = taken
    return _new(form), status


def batch(batchref: str) -> str:
    return _shown(batchref, None)


def change_batch(batchref: str) -> Response | tuple[str, int]:
    typed = {"qty": request.form["qty"]} if request.form.get("qty") else {}
    taken = _take(_CHANGE, _numbered({"batchref": batchref, **typed}), batchref=batchref)
    if isinstance(taken, Response):
        return taken
    form, status = taken
    return _shown(batchref, form), status


def _new(form: Form) -> str:
    return render_template("pages/new_batch.html", form=form)


def _shown(batchref: str, form: Form | None) -> str:
    with snapshot() as connection:
        found = stock.batch(connection, batchref, today(connection))
        flash_message = flash_messages.of_request(connection)
    if found is None:
        raise NotFound(f"There is no batch with the reference {batchref}.")
    form = form or Form({"qty": request.args.get("qty", str(found["qty"]))})
    return render_template("pages/batch.html", batch=found, form=form, flash_message=flash_message)


def _take(name: str, body: Json, batchref: str | None = None) -> Response | tuple[Form, int]:
    """Accept what the form asks, and go on to what it changed; else the form, and why not."""
    command_id = _command_id()
    try:
        command = parsing.parse(name, body)
        message = Message(command_id, command, correlation_id=command_id, traceparent=g.traceparent)
        decided = intake.take([message], TIMEOUT).decided
        if command_id in decided:
            outcome = intake.outcome(command, decided[command_id])
            if isinstance(outcome, Problem):
                raise outcome
    except Problem as problem:
        # Sent again it is another command: under the old id it would stay refused.
        return Form(request.form.to_dict(), uuid4(), *_wrong(name, body, problem)), problem.status
    return redirect(_page_of(command, batchref, command_id), 303)


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
        return shown, "Nothing was saved: correct the fields below."
    return shown, refusal


def _page_of(command: Command, batchref: str | None, command_id: UUID) -> str:
    if batchref is not None:
        return url_for("pages.batch", batchref=batchref, command=command_id)
    sku: Any = codec.command_body(command)["sku"]
    return url_for("pages.product", sku=sku, command=command_id)


def _command_id() -> UUID:
    try:
        return UUID(request.form.get("command_id", ""))
    except ValueError:
        return uuid4()


def _fields(name: str) -> Mapping[str, object]:
    fields: Mapping[str, object] = registry.schema(name)["properties"]
    return fields


def _numbered(body: dict[str, str]) -> Json:
    """With the quantity as a number, where it is one: a form sends text."""
    qty = trimmed(body.get("qty", ""))
    is_whole = qty.removeprefix("-").isdecimal() and len(qty) < 20
    return body | ({"qty": int(qty)} if is_whole else {})
