"""Commands and events as JSON: validated against the contract's schemas, and as dataclasses."""

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING, fields
from datetime import UTC, date, datetime
from functools import cache, partial
from typing import Any, get_args, get_origin, get_type_hints
from uuid import NAMESPACE_OID, uuid5

import jsonschema_rs

from allocation.contract import identifiers
from allocation.contract.registry import COMMANDS, MESSAGES, NAMES
from allocation.domain import commands
from allocation.domain.commands import Command, Malformed, Violation
from allocation.domain.events import Event
from allocation.messaging import cloudevents
from allocation.service_layer.unit_of_work import Message

Json = dict[str, Any]

SOURCE = "allocation"

_ALWAYS_WRITTEN: Mapping[type, set[str]] = {
    commands.CreateBatch: {"eta"},
    commands.ChangeBatchEta: {"eta"},
    commands.AllocateOrder: {"all_or_nothing", "ttl"},
    commands.Dispatch: {"batchref"},
}
"""Optional fields of the first release, which wrote their defaults. Other defaults are left out.

A repeated command is compared with the stored one, so a command must be written the same for ever.
"""
_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_PROBLEMS = {
    "required": "is missing",
    "additionalProperties": "is not a field of this command",
}


class UnknownFields(Exception):
    """The command has fields of a newer contract; nothing else is wrong with it."""


def violations(name: str, body: object) -> list[Violation]:
    """Each field of `body` that breaks the contract called `name`, with its first violation."""
    return _first_of_each_field(_violations(name, body))


def check_fields(name: str, body: Mapping[str, Any]) -> None:
    """Raise UnknownFields if `body` is valid except for extra fields."""
    unknown = body.keys() - COMMANDS[name].schema["properties"].keys()
    if not unknown:
        return
    known = {field: value for field, value in body.items() if field not in unknown}
    if not _violations(name, known):
        names = ascii(sorted(unknown))[1:-1]
        raise UnknownFields(
            f"this release of {name} has no field {names[:200]}: upgrade this worker and replay"
            " the command, or correct its sender"
        )


def parse_command(name: str, body: Any) -> Command:
    """The command that `body` is under `name`, or `Malformed` if it breaks the contract.

    Raises KeyError for a name that is no command.
    """
    kind = COMMANDS[name].kind
    broken = _violations(name, body)
    command: Command | None = None
    if all(each.of_new_id for each in broken):
        try:
            command = _record(kind, body)
        except _OutOfRange as error:
            broken.append(Violation(*error.args))
    if command is not None and not broken:
        return command
    try:
        # ASCII, so that any body can be stored as text.
        text = json.dumps(body, default=repr)[:10_000]
    except RecursionError:
        text = "nested too deeply"
    return Malformed(name, tuple(_first_of_each_field(broken)), text, command)


def command_name(command: Command) -> str:
    """The name of the task that carries `command`."""
    return command.name if isinstance(command, Malformed) else NAMES[type(command)]


def command_body(command: Command) -> Json:
    """The keyword arguments of the task that carries `command`, as JSON."""
    meant = command.meant
    return {"malformed": meant.body} if isinstance(meant, Malformed) else _json(meant)


def cloud_event(event: Event, cause: Message, time: datetime) -> Json:
    """The event that `cause` led to, as CloudEvents 1.0 structured JSON.

    Its id follows from sku and sequence, so it is the same however often it is built. Raises
    AssertionError when it would break the published contract: that is a fault of ours.
    """
    kind: type = type(event)
    data = {name: _value(getattr(event, name)) for name in _data_fields(kind)}
    for name in ("part", "waiting", "left"):  # 0 for a line that is served, and leaves, whole
        if not data.get(name):
            data.pop(name, None)
    name_of_kind = NAMES[kind]
    body = cloudevents.build(
        id=uuid5(NAMESPACE_OID, f"{SOURCE} {data['sku']} {event.sequence}"),
        source=SOURCE,
        type=name_of_kind,
        subject=data["sku"],
        time=time.isoformat(),
        data=data,
        sequence=event.sequence,
        causationid=str(cause.id),
        causationtype=command_name(cause.command),
        correlationid=str(cause.correlation_id),
    )
    broken = violations(name_of_kind, body)
    assert not broken, f"{name_of_kind} breaks its contract: {broken}"
    return body


@cache
def _data_fields(kind: type) -> Sequence[str]:
    return [each.name for each in fields(kind) if each.name not in ("sequence", "choice")]


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


def _json(record: Any) -> Json:
    """The fields of a command, or of a record inside it, without defaults that say nothing."""
    kind: type = type(record)
    return {
        name: _value(value)
        for name, default in _defaults(kind)
        if (value := getattr(record, name)) != default
    }


@cache
def _defaults(kind: type) -> Sequence[tuple[str, object]]:
    """Each field, with the value that is left out; MISSING if it is always written."""
    always = _ALWAYS_WRITTEN.get(kind, ())
    return [(each.name, MISSING if each.name in always else each.default) for each in fields(kind)]


def _value(value: Any) -> Any:
    if isinstance(value, date):
        return value.isoformat()
    if isinstance(value, tuple):
        return [_json(each) for each in value]
    return value


_READERS: Mapping[Any, Callable[[Any], Any]] = {
    int: int,  # JSON Schema takes 3.0 for an integer
    date: date.fromisoformat,
    datetime: lambda text: datetime.fromisoformat(text).astimezone(UTC),
}


class _OutOfRange(Exception):
    """JSON Schema allows a day or a moment that Python has not, such as in the year 0000.

    The arguments are those of a Violation.
    """


def _record(kind: type, body: Mapping[str, Any]) -> Any:
    """The dataclass `kind` of a body that is valid."""
    values = dict(body)
    for name, read in _readers(kind).items():
        if values.get(name) is not None:
            try:
                values[name] = read(values[name])
            except (ValueError, OverflowError) as error:
                raise _OutOfRange(name, str(error)) from error
    return kind(**values)


def _records(kind: type, bodies: Sequence[Mapping[str, Any]]) -> tuple[Any, ...]:
    return tuple(_record(kind, body) for body in bodies)


@cache
def _readers(kind: type) -> Mapping[str, Callable[[Any], Any]]:
    """How to read those fields of the dataclass that are not in JSON what they are in Python."""
    found: dict[str, Callable[[Any], Any]] = {}
    for name, hint in get_type_hints(kind).items():
        if get_origin(hint) is tuple:
            found[name] = partial(_records, get_args(hint)[0])
        for each in (hint, *get_args(hint)):  # `int | None` has the arguments int and None
            if each in _READERS:
                found[name] = _READERS[each]
    return found


def _first_of_each_field(broken: Sequence[Violation]) -> list[Violation]:
    found: dict[str, Violation] = {}
    for each in broken:
        found.setdefault(each.field, each)
    return list(found.values())


def _violations(name: str, body: object) -> list[Violation]:
    if isinstance(body, Mapping):
        for field_name, value in body.items():
            if isinstance(value, str) and not value.isprintable() and _LONE_SURROGATE.search(value):
                return [Violation(str(field_name), "has a character that is not Unicode text")]
    try:
        errors = list(_validator(name).iter_errors(body))
    except (ValueError, TypeError) as error:
        # What JSON cannot carry at all: endless nesting, keys that are no strings.
        return [Violation("body", f"is not JSON: {error}")]
    return [_violation(name, body, error) for error in errors]


def _violation(name: str, body: object, error: jsonschema_rs.ValidationError) -> Violation:
    text, kind = error.instance, error.kind
    rule = kind.as_dict()
    problem = _PROBLEMS.get(kind.name) or error.message or kind.name
    if isinstance(text, str) and ("pattern" in rule or rule.get("format") == identifiers.FORMAT):
        # A text that breaks the pattern of stored ids breaks that of new ids, too.
        if unstorable := identifiers.unstorable(text):
            problem = unstorable if kind.name == "pattern" else problem
        elif of_new_id := identifiers.problem(text):
            return Violation(_field(name, body, error), of_new_id, of_new_id=True)
    return Violation(_field(name, body, error), problem)


def _field(name: str, body: object, error: jsonschema_rs.ValidationError) -> str:
    path = [str(step) for step in error.instance_path]
    if error.kind.name == "required":
        path.append(str(error.kind.as_dict()["property"]))
    if any(isinstance(step, int) for step in error.instance_path):
        return ".".join(path)  # the whole path to a list's element
    if path:
        return path[-1]
    if not isinstance(body, Mapping):
        return "body"
    known = MESSAGES[name].schema["properties"]
    unknown = next((str(field) for field in body if field not in known), "body")
    return unknown[:100] if unknown.isprintable() else ascii(unknown[:100])


@cache
def _validator(name: str) -> jsonschema_rs.Validator:
    return jsonschema_rs.validator_for(
        MESSAGES[name].schema,
        validate_formats=True,
        formats={identifiers.FORMAT: lambda text: identifiers.problem(text) is None},
        mask="the value",
    )
