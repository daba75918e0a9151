"""Events of other systems: CloudEvents, strictly read, and the command that each type becomes."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from uuid import UUID, uuid5

from kombu.message import Message as Delivered

from allocation.contract import codec
from allocation.domain.commands import Command, Malformed, Violation
from allocation.messaging import cloudevents, dead_letters
from allocation.messaging.cloudevents import Unreadable
from allocation.messaging.telemetry import trace_context
from allocation.service_layer.unit_of_work import Message

COMMAND_IDS = UUID("5f0f3c0e-6a4e-4f5c-9d0e-0d8f6c1b7a52")
"""The id of an event's command is the UUID 5 of the JSON text `["source", "id"]` in here."""

_ENVELOPE = ("specversion", "id", "source", "type")


@dataclass(frozen=True, slots=True)
class Meaning:
    """The command that a type of event is, and the fields of its data that the command takes.

    The command also has the `fixed` fields, whatever the event's data say.
    """

    command: str
    fields: tuple[str, ...]
    fixed: Mapping[str, object] = field(default_factory=dict)


# Each has a JSON Schema and an example in contract/inbound.
TYPES: Mapping[str, Meaning] = {
    "batch.quantity_changed.v1": Meaning("allocation.change_batch_quantity", ("batchref", "qty")),
    "shipment.delayed.v1": Meaning("allocation.change_batch_eta", ("batchref", "eta")),
    "shipment.arrived.v1": Meaning("allocation.change_batch_eta", ("batchref",)),
    "stock.damaged.v1": Meaning("allocation.write_off", ("batchref", "qty", "reason")),
    "warehouse.dispatched.v1": Meaning(
        "allocation.dispatch", ("orderid", "sku", "batchref", "qty"), fixed={"reported": True}
    ),
}


class Inadmissible(Unreadable):
    """The message is no event that can be accepted."""


class UnknownType(Inadmissible):
    """A newer release may know it: its dead letter can be replayed once there is one."""

    reason = "unknown type"


class MalformedData(Inadmissible):
    """The type of the event is known, and the event breaks its contract."""

    reason = "malformed"


def read(message: Delivered) -> Message:
    """The command that a message asks for; the same event always gets the same command id.

    Unknown fields are ignored. Raises Inadmissible.
    """
    try:
        event = cloudevents.read_strictly(message)
    except Unreadable as problem:
        raise Inadmissible(str(problem)) from problem
    command_id = _command_id(event)
    return Message(
        id=command_id,
        command=_command(event),
        correlation_id=trace_context.as_uuid(event.get("correlationid")) or command_id,
        traceparent=trace_context.accepted(event.get("traceparent")),
    )


def names(message: Delivered) -> dict[str, str]:
    """What a log line names a refused message by: as much as can be read."""
    event = dead_letters.object_in(message.body or b"")
    if not event:
        return {}
    data = event["data"] if isinstance(event.get("data"), dict) else {}
    said = {"event_id": event.get("id"), "type": event.get("type")}
    said |= {name: data.get(name) for name in ("orderid", "sku", "batchref")}
    known = {name: value[:100] for name, value in said.items() if isinstance(value, str)}
    correlation_id = trace_context.as_uuid(event.get("correlationid")) or _command_id(event)
    traceparent = trace_context.accepted(event.get("traceparent"))
    return known | {"trace_id": trace_context.trace_id(traceparent, correlation_id)}


def _command_id(event: codec.Json) -> UUID:
    return uuid5(COMMAND_IDS, json.dumps([event.get("source"), event.get("id")]))


def _command(event: codec.Json) -> Command:
    kind, data = event["type"], event["data"]
    meaning = TYPES.get(kind)
    if meaning is None:
        raise UnknownType(f"the type {kind!r} is unknown")
    # Only what is known is looked at: the rest may be as odd as it likes.
    known = {name: data[name] for name in meaning.fields if name in data}
    envelope = {name: event[name] for name in _ENVELOPE}
    command = codec.parse_command(meaning.command, {**known, **meaning.fixed})
    if isinstance(command, Malformed):
        raise _malformed(command.violations)
    # A type may ask for more than its command does.
    if broken := codec.violations(kind, envelope | {"data": known}):
        raise _malformed(broken)
    return command


def _malformed(broken: Sequence[Violation]) -> MalformedData:
    return MalformedData("; ".join(f"the field {each.field}: {each.problem}" for each in broken))
