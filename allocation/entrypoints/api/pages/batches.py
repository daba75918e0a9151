"""Batches: put one on the books, look at one; `actions` has the forms that change one."""

from typing import Any

from flask import Blueprint, redirect, render_template, request, url_for
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from allocation.adapters.sql.api_keys import WRITE
from allocation.contract import codec
from allocation.entrypoints.api.auth import security
from allocation.entrypoints.api.http import parsing
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.pages import actions, flash_messages, forms
from allocation.entrypoints.api.pages.forms import Form
from allocation.entrypoints.api.state import snapshot

_CREATE = "allocation.create_batch"


def register(blueprint: Blueprint) -> None:
    blueprint.get("/new-batch")(new_batch)
    blueprint.post("/new-batch")(create_batch)
    blueprint.get("/batches/<batchref>")(batch)


def new_batch() -> str:
    security.check_scope(WRITE)
    return _new(Form(request.args.to_dict()))


def create_batch() -> Response | tuple[str, int]:
    body = forms.typed(_CREATE)
    try:
        command = parsing.parse(_CREATE, body)
        command_id = forms.accept(command)
    except Problem as problem:
        return _new(forms.again(_CREATE, body, problem)), problem.status
    sku: Any = codec.command_body(command)["sku"]
    return redirect(url_for("pages.product", sku=sku, command=command_id), 303)


def batch(batchref: str) -> str:
    with snapshot() as connection:
        found = actions.BATCH.found(connection, batchref)
        flash_message = flash_messages.of_request(connection)
    if found is None:
        raise NotFound(f"There is no batch with the reference {batchref}.")
    return render_template(
        "pages/batch.html",
        batch=found,
        actions=actions.offered(actions.BATCH, found),
        flash_message=flash_message,
    )


def _new(form: Form) -> str:
    return render_template("pages/new_batch.html", form=form)
