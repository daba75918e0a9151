"""Commands and events on the wire: JSON held against the contract's schemas."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import cache
from importlib.resources import files
from typing import Any, get_args
from uuid import NAMESPACE_OID, UUID, uuid5

import jsonschema_rs

from allocation.contract import identifiers
from allocation.domain import commands, events
from allocation.domain.commands import Command, Malformed, Wanted
from allocation.domain.events import Event
from allocation.messaging import cloudevents

Json = dict[str, Any]

COMMANDS: dict[str, type[Command]] = {
    "allocation.create_batch": commands.CreateBatch,
    "allocation.allocate": commands.Allocate,
    "allocation.allocate_order": commands.AllocateOrder,
    "allocation.reserve": commands.Reserve,
    "allocation.confirm": commands.Confirm,
    "allocation.extend": commands.Extend,
    "allocation.release": commands.Release,
    "allocation.expire": commands.Expire,
    "allocation.dispatch": commands.Dispatch,
    "allocation.deallocate": commands.Deallocate,
    "allocation.change_batch_quantity": commands.ChangeBatchQuantity,
    "allocation.change_batch_eta": commands.ChangeBatchEta,
    "allocation.write_off": commands.WriteOff,
    "allocation.choose_strategy": commands.ChooseStrategy,
    "allocation.allocate_waiting": commands.AllocateWaiting,
    "allocation.review_promises": commands.ReviewPromises,
}
COMMAND_NAMES = {kind: name for name, kind in COMMANDS.items()}
FOLLOW_UPS = tuple(COMMAND_NAMES[kind] for kind in get_args(commands.FollowUp))
"""Names of the commands that decisions create; no client waits for them."""
EVENT_TYPES: dict[type[Event], str] = {
    events.BatchCreated: "allocation.batch_created.v1",
    events.BatchQuantityChanged: "allocation.batch_quantity_changed.v1",
    events.StrategyChosen: "allocation.strategy_chosen.v1",
    events.BatchEtaChanged: "allocation.batch_eta_changed.v1",
    events.WrittenOff: "allocation.written_off.v1",
    events.Allocated: "allocation.allocated.v1",
    events.Deallocated: "allocation.deallocated.v1",
    events.Reserved: "allocation.reserved.v1",
    events.ReservationReleased: "allocation.reservation_released.v1",
    events.Dispatched: "allocation.dispatched.v1",
    events.OutOfStock: "allocation.out_of_stock.v1",
    events.PromiseChanged: "allocation.promise_changed.v1",
}
SOURCE = "allocation"

# Left out where they say nothing: so a command is the same as it was before they came.
_CAME_LATER = {"customer", "best_before", "split"}
_CAME_LATER_TO_CONFIRM = {"all_or_nothing"}
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PROBLEMS = {
    "required": "is missing",
    "additionalProperties": "is not a field of this command",
}


@dataclass(frozen=True, slots=True)
class Violation:
    """`field` of a body breaks its contract: `problem` says how, without repeating the value."""

    field: str
    problem: str


class UnknownFields(Exception):
    """The command has fields of a newer contract; nothing else is wrong with it."""


def schema(name: str) -> Json:
    """The JSON Schema of a command (`allocation.allocate`) or event (`allocation.allocated.v1`).

    The events of other systems have theirs, too (`batch.quantity_changed.v1`).
    """
    return dict(_read(name, "schema"))


def example(name: str) -> Json:
    """A valid body of a command, or a whole event."""
    return dict(_read(name, "example"))


def violations(name: str, body: object, *, accepted: bool = False) -> list[Violation]:
    """Everything in which `body` breaks the contract called `name`; empty when it keeps it.

    `accepted`: it was accepted before, so the rule for new ids does not apply to it.
    """
    if isinstance(body, Mapping):
        for field, value in body.items():
            if isinstance(value, str) and not value.isprintable() and _LONE_SURROGATE.search(value):
                return [Violation(str(field), "has a character that is not Unicode text")]
    try:
        errors = list(_validator(name).iter_errors(body))
    except (ValueError, TypeError) as error:
        # What JSON cannot carry at all: endless nesting, keys that are no strings.
        return [Violation("body", f"is not JSON: {error}")]
    found: dict[str, Violation] = {}
    for broken in errors:
        new_id = _problem_of_new_id(broken)
        if new_id and accepted:
            continue
        field = _field(name, body, broken)
        problem = new_id or _PROBLEMS.get(broken.kind.name) or _text_problem(broken)
        found.setdefault(field, Violation(field, problem or broken.message or broken.kind.name))
    return list(found.values())


def check_fields(name: str, body: Mapping[str, Any]) -> None:
    """Raise UnknownFields where the contract's only complaint about `body` is what it has more."""
    unknown = body.keys() - _read(name, "schema")["properties"].keys()
    known = {field: value for field, value in body.items() if field not in unknown}
    if unknown and not violations(name, known):
        names = ascii(sorted(unknown))[1:-1]
        raise UnknownFields(
            f"{name} has no field {names[:200]} here: upgrade this worker and replay the command,"
            " or mend its sender"
        )


def parse_command(name: str, body: Mapping[str, Any]) -> Command:
    """The command that `body` is under `name`, or `Malformed` with the first violation.

    Raises KeyError for a name that is no command.
    """
    read = read_command(name, body)
    if not isinstance(read, list):
        return read
    meant = read_command(name, body, accepted=True)
    return _malformed(name, body, read[0], None if isinstance(meant, list) else meant)


def read_command(name: str, body: Any, *, accepted: bool = False) -> Command | list[Violation]:
    """The command that `body` is under `name`, or everything in which it breaks the contract.

    `accepted` is as for `violations`. Raises KeyError for a name that is no command.
    """
    kind = COMMANDS[name]
    broken = violations(name, body, accepted=accepted)
    if broken:
        return broken
    fields = dict(body)
    for whole in ("qty", "ttl"):
        if fields.get(whole) is not None:
            fields[whole] = int(fields[whole])  # JSON Schema takes 3.0 for an integer: so do we
    for day in ("eta", "best_before"):
        if fields.get(day) is not None:
            try:
                fields[day] = date.fromisoformat(fields[day])
            except ValueError as error:  # the year 0000 is a date to JSON Schema, to nobody else
                return [Violation(day, str(error))]
    if "lines" in fields:
        fields["lines"] = tuple(
            Wanted(each["sku"], int(each["qty"]), each.get("split", False))
            for each in fields["lines"]
        )
    if "expires_at" in fields:
        fields["expires_at"] = datetime.fromisoformat(fields["expires_at"]).astimezone(UTC)
    return kind(**fields)


def command_name(command: Command) -> str:
    """The name of the task that carries `command`."""
    return command.name if isinstance(command, Malformed) else COMMAND_NAMES[type(command)]


def command_body(command: Command) -> Json:
    """The keyword arguments of the task that carries `command`, as JSON."""
    if isinstance(command, Malformed):
        return {"malformed": command.body} if command.meant is None else command_body(command.meant)
    body = _json(command)
    later = _CAME_LATER_TO_CONFIRM if isinstance(command, commands.Confirm) else _CAME_LATER
    for name in later & body.keys():
        if not body[name]:
            del body[name]
    return body


def cloud_event(
    event: Event, *, time: datetime, causation_id: UUID, causation_type: str, correlation_id: UUID
) -> Json:
    """The event as CloudEvents 1.0 structured JSON.

    Its id follows from sku and sequence, so it is the same however often it is built. Raises
    AssertionError when it would break the published contract: that is a fault of ours.
    """
    data = _json(event)
    sequence = data.pop("sequence")
    for name in ("part", "waiting"):  # 0 for a line that is served whole
        if not data.get(name):
            data.pop(name, None)
    kind = EVENT_TYPES[type(event)]
    body = cloudevents.build(
        id=uuid5(NAMESPACE_OID, f"{SOURCE} {data['sku']} {sequence}"),
        source=SOURCE,
        type=kind,
        subject=data["sku"],
        time=time.isoformat(),
        data=data,
        sequence=sequence,
        causationid=str(causation_id),
        causationtype=causation_type,
        correlationid=str(correlation_id),
    )
    broken = violations(kind, body)
    assert not broken, f"{kind} breaks its contract: {broken}"
    return body


def choice(event: Event) -> Json | None:
    """What the event's choice was made from, as JSON; None when it was none."""
    if event.choice is None:
        return None
    return {
        "candidates": event.choice.candidates,
        "considered": [
            {"batchref": each.batchref, "eta": _value(each.eta), "free": each.free}
            for each in event.choice.considered
        ],
    }


def event_id(body: Json) -> UUID:
    """The id of a CloudEvent of ours."""
    return UUID(body["id"])


def _malformed(name: str, body: object, violation: Violation, meant: Command | None) -> Malformed:
    # ASCII, so that whatever came can be stored as text.
    text = json.dumps(body, default=repr)[:10_000]
    return Malformed(name, violation.field, violation.problem, text, meant)


def _json(record: Command | Event) -> Json:
    """The fields as JSON; `asdict` would copy each value deeply, and they are plain."""
    names = record.__dataclass_fields__
    return {name: _value(getattr(record, name)) for name in names if name != "choice"}


def _value(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, tuple):
        return [
            {"sku": line.sku, "qty": line.qty} | ({"split": True} if line.split else {})
            for line in value
        ]
    return value


def _problem_of_new_id(error: jsonschema_rs.ValidationError) -> str | None:
    """What is wrong with a new id, or None if the error is about something else."""
    text, rule = error.instance, error.kind.as_dict()
    is_of_id = "pattern" in rule or rule.get("format") == identifiers.FORMAT
    # Such a text breaks the pattern of stored ids too: the rule for new ids is not the cause.
    if not is_of_id or not isinstance(text, str) or identifiers.unstorable(text):
        return None
    return identifiers.problem(text)


def _text_problem(error: jsonschema_rs.ValidationError) -> str | None:
    if error.kind.name == "pattern" and isinstance(error.instance, str):
        return identifiers.unstorable(error.instance)
    return None


def _field(name: str, body: object, error: jsonschema_rs.ValidationError) -> str:
    path = [str(step) for step in error.instance_path]
    if error.kind.name == "required":
        path.append(str(error.kind.as_dict()["property"]))
    if any(isinstance(step, int) for step in error.instance_path):
        return ".".join(path)  # the whole way to a list's element: else nobody knows which
    if path:
        return path[-1]
    if not isinstance(body, Mapping):
        return "body"
    known = _read(name, "schema")["properties"]
    unknown = next((str(field) for field in body if field not in known), "body")
    return unknown[:100] if unknown.isprintable() else ascii(unknown[:100])


@cache
def _validator(name: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(
        _read(name, "schema"),
        validate_formats=True,
        formats={identifiers.FORMAT: lambda text: identifiers.problem(text) is None},
        mask="the value",
    )


@cache
def _read(name: str, what: str) -> Any:
    folder, stem = "inbound", name
    if name in COMMANDS:
        folder, stem = "commands", name.removeprefix("allocation.")
    elif name in EVENT_TYPES.values():
        folder = "events"
    file = files("allocation") / "contract" / folder / f"{stem}.{what}.json"
    return json.loads(file.read_text("utf-8"))
