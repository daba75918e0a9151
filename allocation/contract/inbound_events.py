"""What other systems tell us: CloudEvents, strictly admitted, and the command that each type is."""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NoReturn
from uuid import UUID, uuid5

from kombu.message import Message as Delivered

from allocation.contract import codec
from allocation.domain.commands import Command
from allocation.messaging.dead_letters import LARGEST_BODY
from allocation.messaging.telemetry import trace_context
from allocation.service_layer.unit_of_work import Message

COMMAND_IDS = UUID("5f0f3c0e-6a4e-4f5c-9d0e-0d8f6c1b7a52")
"""The id of an event's command is the UUID 5 of the JSON text `["source", "id"]` in here."""

_CONTENT_TYPES = ("application/cloudevents+json", "application/json")
_CHARSETS = ("", "charset=utf-8")
_ENCODINGS = ("", "utf-8", "binary")  # the last is what kombu calls none
_ENVELOPE = ("specversion", "id", "source", "type")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")


@dataclass(frozen=True, slots=True)
class Meaning:
    """The command that a type of event is, and the fields of its data that the command takes."""

    command: str
    fields: tuple[str, ...]


# Each has a JSON Schema and an example in contract/inbound.
TYPES: Mapping[str, Meaning] = {
    "batch.quantity_changed.v1": Meaning("allocation.change_batch_quantity", ("batchref", "qty")),
    "shipment.delayed.v1": Meaning("allocation.change_batch_eta", ("batchref", "eta")),
    "shipment.arrived.v1": Meaning("allocation.change_batch_eta", ("batchref",)),
    "stock.damaged.v1": Meaning("allocation.write_off", ("batchref", "qty", "reason")),
    "warehouse.dispatched.v1": Meaning("allocation.dispatch", ("orderid", "sku", "batchref")),
}


class Inadmissible(Exception):
    """The message is no event that can be taken; its text says why, `reason` in a word or two."""

    reason = "unreadable"


class UnknownType(Inadmissible):
    """A newer release may know it: its dead letter can be replayed once there is one."""

    reason = "unknown type"


class MalformedData(Inadmissible):
    """It is an event of a type that is known, and breaks that type's contract."""

    reason = "malformed"


def read(message: Delivered) -> Message:
    """The command that a message asks for; what comes again, asks for the same by the same id.

    Fields that nobody here knows are ignored. Raises Inadmissible.
    """
    event = _event(message)
    command_id = _command_id(event)
    return Message(
        id=command_id,
        command=_command(event),
        correlation_id=_uuid(event.get("correlationid")) or command_id,
        traceparent=trace_context.accepted(event.get("traceparent")),
    )


def names(message: Delivered) -> dict[str, str]:
    """What a line about a message that was not taken names it by; as much as can be read."""
    if len(message.body or b"") > LARGEST_BODY:
        return {}
    try:
        event = json.loads(message.body or b"")
    except (ValueError, RecursionError):
        return {}
    if not isinstance(event, dict):
        return {}
    data = event["data"] if isinstance(event.get("data"), dict) else {}
    said = {"event_id": event.get("id"), "type": event.get("type")}
    said |= {name: data.get(name) for name in ("orderid", "sku", "batchref")}
    known = {name: value[:100] for name, value in said.items() if isinstance(value, str)}
    correlation_id = _uuid(event.get("correlationid")) or _command_id(event)
    traceparent = trace_context.accepted(event.get("traceparent"))
    return known | {"trace_id": trace_context.trace_id(traceparent, correlation_id)}


def _command_id(event: codec.Json) -> UUID:
    return uuid5(COMMAND_IDS, json.dumps([event.get("source"), event.get("id")]))


def _event(message: Delivered) -> codec.Json:
    _check_properties(message)
    body = message.body or b""
    try:
        text = body if isinstance(body, str) else bytes(body).decode()
        event = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Inadmissible(f"the body is not JSON: {error}") from error
    if not isinstance(event, dict):
        raise Inadmissible("the body is not a JSON object")
    if event.get("specversion") != "1.0":
        raise Inadmissible(f"the field specversion is {_shown(event, 'specversion')}, not 1.0")
    for name in ("id", "source", "type"):
        value = event.get(name)
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise Inadmissible(
                f"the field {name} is {_shown(event, name)}, no text of 1 to 255 characters"
            )
    if not isinstance(event.get("data"), dict):
        raise Inadmissible(f"the field data is {_shown(event, 'data')}, no JSON object")
    return event


def _check_properties(message: Delivered) -> None:
    kind, _, parameters = str(message.content_type).lower().partition(";")
    if kind.strip() not in _CONTENT_TYPES or parameters.strip() not in _CHARSETS:
        raise Inadmissible(
            f"the content type is {message.content_type!r}, not application/cloudevents+json"
        )
    if (message.content_encoding or "").lower() not in _ENCODINGS:
        raise Inadmissible(f"the content encoding is {message.content_encoding!r}, not utf-8")
    if message.headers.get("compression") or message.errors:
        raise Inadmissible("the body is compressed")
    if len(message.body or b"") > LARGEST_BODY:
        raise Inadmissible(f"the body has {len(message.body)} bytes, more than {LARGEST_BODY}")


def _command(event: codec.Json) -> Command:
    kind, data = event["type"], event["data"]
    meaning = TYPES.get(kind)
    if meaning is None:
        raise UnknownType(f"the type {kind!r} is not known here")
    # Only what is known is looked at: the rest may be as odd as it likes.
    known = {field: data[field] for field in meaning.fields if field in data}
    envelope = {name: event[name] for name in _ENVELOPE}
    command = codec.read_command(meaning.command, known)
    if isinstance(command, codec.Invalid):
        raise _malformed(command.violations)
    # A type may ask for more than its command does.
    if broken := codec.violations(kind, envelope | {"data": known}):
        raise _malformed(broken)
    return command


def _malformed(broken: Sequence[codec.Violation]) -> MalformedData:
    return MalformedData("; ".join(f"the field {each.field}: {each.problem}" for each in broken))


def _uuid(text: object) -> UUID | None:
    try:
        return UUID(text) if isinstance(text, str) else None
    except ValueError:
        return None


def _shown(event: codec.Json, name: str) -> str:
    return ascii(event[name])[:300] if name in event else "missing"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
