"""Changes of batches, lines and orders: a form, then what it would do, then the deed."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

from flask import Blueprint, redirect, render_template, request, url_for
from sqlalchemy import Connection
from werkzeug.exceptions import NotFound
from werkzeug.wrappers import Response

from allocation.adapters.sql.api_keys import WRITE
from allocation.adapters.sql.unit_of_work import SqlUnitOfWork
from allocation.contract import registry
from allocation.domain.commands import Command, Violation
from allocation.domain.outcomes import Refused
from allocation.entrypoints.api import state
from allocation.entrypoints.api.auth import security
from allocation.entrypoints.api.http import parsing
from allocation.entrypoints.api.http.preconditions import VERSION
from allocation.entrypoints.api.http.problems import Problem
from allocation.entrypoints.api.pages import effects, forms, reasons
from allocation.entrypoints.api.pages.forms import Form
from allocation.entrypoints.api.state import snapshot, today
from allocation.service_layer.preview import Preview, preview
from allocation.service_layer.unit_of_work import ConcurrentUpdate
from allocation.views import Json, lines, stock

SHOWN = 20
"""Lines of each kind that a preview names; it counts the others."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What an action changes: its path, page, and how it stands now, None if it is not there."""

    rule: str
    page: str
    found: Callable[..., Json | None]
    absent: str


def _batch(connection: Connection, batchref: str) -> Json | None:
    return stock.batch(connection, batchref, today(connection))


def _order(connection: Connection, orderid: str) -> Json | None:
    known = lines.order(connection, orderid)
    return {"orderid": orderid, "lines": lines.whole(known["lines"])} if known else None


BATCH = Subject(
    *("/batches/<batchref>", "pages.batch", _batch),
    "There is no batch with the reference {batchref}.",
)
LINE = Subject(
    *("/orders/<orderid>/lines/<sku>", "pages.order", lines.line),
    "The order {orderid} has no line of {sku}.",
)
ORDER = Subject("/orders/<orderid>", "pages.order", _order, "The order {orderid} has no lines.")


@dataclass(frozen=True, slots=True)
class Input:
    """A field of a form; `known` fills in what holds now."""

    name: str
    label: str
    type: str = "text"
    hint: str = ""
    required: bool = True
    known: bool = False
    command: str = ""

    @property
    def least(self) -> int:
        return int(self._schema.get("minimum", 0))

    @property
    def most(self) -> int:
        return int(self._schema.get("maximum", 0))

    @property
    def longest(self) -> int:
        return int(self._schema.get("maxLength", 0))

    @property
    def _schema(self) -> Mapping[str, Any]:
        schema: Mapping[str, Any] = registry.schema(self.command)["properties"][self.name]
        return schema


@dataclass(frozen=True, slots=True)
class Action:
    """A command with its form, at `slug` below its subject; `title` is also its button's text."""

    name: str
    subject: Subject
    slug: str
    title: str
    inputs: tuple[Input, ...] = ()
    about: str = ""

    @property
    def command(self) -> str:
        """The command's name on the wire."""
        return f"allocation.{self.name}"

    @property
    def endpoint(self) -> str:
        return f"pages.{self.name}"

    @property
    def is_versioned(self) -> bool:
        """Whether the command is refused if its subject changed since it was looked at."""
        return VERSION in registry.schema(self.command)["properties"]

    @property
    def fields(self) -> tuple[Input, ...]:
        return tuple(replace(each, command=self.command) for each in self.inputs)


ACTIONS = (
    Action(
        *("receive", BATCH, "receive", "Receive pieces"),
        (Input("qty", "Pieces", "number", "How many were added to the batch."),),
    ),
    Action(
        *("write_off", BATCH, "write-off", "Write off pieces"),
        (
            Input("qty", "Pieces", "number", "How many are damaged, lost or stolen."),
            Input("reason", "Reason", hint="For people, such as: water damage."),
        ),
    ),
    Action(
        *("change_batch_quantity", BATCH, "quantity", "Change the quantity"),
        (
            Input(
                *("qty", "Pieces", "number"),
                hint="As they were counted: how many the batch has; 0 if all are lost.",
                known=True,
            ),
        ),
    ),
    Action(
        *("change_batch_eta", BATCH, "eta", "Change the arrival"),
        (
            Input(
                *("eta", "Arrives on", "date", "Empty: it has arrived, and is on the shelf."),
                required=False,
                known=True,
            ),
        ),
    ),
    Action(
        *("change_best_before", BATCH, "best-before", "Change the best-before day"),
        (
            Input(
                *("best_before", "Good until", "date", "Empty: it does not expire."),
                required=False,
                known=True,
            ),
        ),
    ),
    Action(
        *("block_batch", BATCH, "block", "Block the batch"),
        (Input("reason", "Reason", hint="For people, such as: recall, quality hold."),),
        "A blocked batch serves no line until it is unblocked.",
    ),
    Action("unblock_batch", BATCH, "unblock", "Unblock the batch"),
    Action(
        *("change_line_quantity", LINE, "quantity", "Change the quantity"),
        (Input("qty", "Pieces", "number", "How many the customer wants.", known=True),),
        "The line keeps its age. More pieces are refused unless stock is there for all of them.",
    ),
    Action(
        *("change_priority", LINE, "priority", "Change the priority"),
        (
            Input(
                "priority", "Priority", "number", "0 to 9; the highest is served first.", True, True
            ),
        ),
        "Waiting lines are served by priority, then age; on a shortage the lowest gives way first.",
    ),
    Action(
        *("cancel_order", ORDER, "cancel", "Cancel the order"),
        about="Every line is given up, except goods that were shipped.",
    ),
)
BY_COMMAND = {action.command: action for action in ACTIONS}


@dataclass(frozen=True, slots=True)
class Shown:
    """A preview as a page shows it; `lines` are the affected ones, by what becomes of them."""

    command: Command
    facts: Mapping[str, Any]
    lines: Mapping[str, list[effects.Effect]]
    complete: bool
    changes_nothing: bool

    @property
    def name(self) -> str:
        return registry.NAMES[type(self.command)].removeprefix("allocation.")


def register(blueprint: Blueprint) -> None:
    for action in ACTIONS:
        path = f"{action.subject.rule}/{action.slug}"
        blueprint.add_url_rule(path, action.name, _asked(action), methods=["GET"])
        blueprint.add_url_rule(path, f"do_{action.name}", _sent(action), methods=["POST"])


def offered(subject: Subject, found: Json) -> list[Action]:
    """The actions on a subject that stands so: a batch is unblocked only if it is blocked."""
    unfit = "block_batch" if found.get("blocked") else "unblock_batch"
    return [each for each in ACTIONS if each.subject is subject and each.name != unfit]


def _asked(action: Action) -> Callable[..., str]:
    def show(**ids: str) -> str:
        security.check_scope(WRITE)
        found = _found(action, ids)
        known = {
            each.name: "" if found[each.name] is None else str(found[each.name])
            for each in action.inputs
            if each.known
        }
        return _page(action, found, Form(known | request.args.to_dict()))

    return show


def _sent(action: Action) -> Callable[..., Response | tuple[str, int]]:
    def send(**ids: str) -> Response | tuple[str, int]:
        body = forms.typed(action.command) | ids
        version = body.pop(VERSION, None)
        found = _found(action, ids)
        try:
            if "confirmed" not in request.form:
                return _previewed(action, body, found)
            expected = {VERSION: version} if version and action.is_versioned else {}
            command_id = forms.accept(parsing.parse(action.command, body | expected))
        except Problem as problem:
            if problem.kind == reasons.MEANWHILE:
                return _seen_again(action, body, ids)
            return _page(action, found, forms.again(action.command, body, problem)), problem.status
        return redirect(url_for(action.subject.page, **_page_ids(), command=command_id), 303)

    return send


def _seen_again(action: Action, body: Json, ids: Mapping[str, str]) -> tuple[str, int]:
    """What the command would do now that somebody changed its subject."""
    found = _found(action, ids)
    try:
        page, _ = _previewed(action, body, found, meanwhile=True)
    except Problem as problem:
        return _page(action, found, forms.again(action.command, body, problem)), problem.status
    return page, 409


def _previewed(
    action: Action, body: Json, found: Json, *, meanwhile: bool = False
) -> tuple[str, int]:
    """The page that says what the command would do. Raises Problem if it would be refused."""
    command = parsing.parse(action.command, body)
    seen = _try(command)
    if isinstance(seen.outcome, Refused):
        facts: dict[str, Any] = dict(seen.outcome.facts)
        field = str(facts.pop("field"))
        reason = seen.outcome.reason
        raise Problem(reason, errors=[Violation(field, reason)], **facts)
    form = Form(request.form.to_dict(), uuid4() if meanwhile else forms.sent_id())
    return _page(action, found, form, _shown(command, seen), meanwhile=meanwhile), 200


def _try(command: Command) -> Preview:
    needed = state.current().dependencies
    # Not that of `needed`: it counts its locks as a worker's.
    uow = SqlUnitOfWork(needed.engine, calendar=needed.settings.calendar)
    try:
        return preview(command, uow)
    except ConcurrentUpdate:
        return preview(command, uow)


def _shown(command: Command, seen: Preview) -> Shown:
    with snapshot() as connection:
        days = stock.etas(connection, effects.batches_of(seen.events))
        found = effects.effects(command, seen.events, days, today(connection))
    return Shown(
        command, seen.outcome.facts, dict(effects.by_kind(found)), seen.complete, not seen.events
    )


def _found(action: Action, ids: Mapping[str, str]) -> Json:
    with snapshot() as connection:
        found = action.subject.found(connection, **ids)
    if found is None:
        raise NotFound(action.subject.absent.format_map(ids))
    return found


def _page(
    action: Action,
    found: Json,
    form: Form,
    shown: Shown | None = None,
    *,
    meanwhile: bool = False,
) -> str:
    return render_template(
        "pages/action.html",
        action=action,
        found=found,
        ids=request.view_args or {},
        form=form,
        preview=shown,
        meanwhile=meanwhile,
        most=SHOWN,
        typed=_typed(action, form),
        back=url_for(action.subject.page, **_page_ids()),
    )


def _typed(action: Action, form: Form) -> dict[str, str]:
    """What was typed, as parameters that fill the form in again."""
    return {each.name: text for each in action.inputs if (text := form.values.get(each.name))}


def _page_ids() -> dict[str, Any]:
    ids = request.view_args or {}
    return {name: ids[name] for name in ("batchref", "orderid") if name in ids}
