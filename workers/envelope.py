"""An event as it comes in: CloudEvents 1.0 structured JSON, checked, and read tolerantly."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

# As in the contract; other characters of its pattern harm nobody here.
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")


class Unreadable(Exception):
    """The message is no event that can be understood here; the text says why."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """What every event has; `sequence` counts the events of the sku `subject` from 1, gap-free."""

    id: UUID
    type: str
    subject: str
    sequence: int
    causationtype: str
    data: Mapping[str, Any]
    body: Mapping[str, Any] = field(repr=False)
    """The whole event, with the fields that nobody here knows."""


def read(body: bytes | str, content_type: str | None) -> Envelope:
    """The event in a message's body; fields that nobody knows are ignored. Raises Unreadable."""
    if str(content_type).partition(";")[0] not in (
        "application/cloudevents+json",
        "application/json",
    ):
        raise Unreadable(f"the content type is {content_type!r}, not application/cloudevents+json")
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the body is not JSON: {error}") from error
    return from_json(event)


def from_json(event: object) -> Envelope:
    """The event that was decoded already. Raises Unreadable."""
    if not isinstance(event, dict):
        raise Unreadable("the body is not a JSON object")
    for name, kind in (("id", str), ("type", str), ("subject", str), ("data", dict)):
        if not isinstance(event.get(name), kind):
            raise Unreadable(f"the field {name} is {event.get(name)!r}")
    if not _NAME.fullmatch(event["subject"]):
        raise Unreadable(f"the field subject is {event['subject']!r}, no name")
    sequence = event.get("sequence")
    if type(sequence) is not int or not 1 <= sequence < 2**63:
        raise Unreadable(f"the field sequence is {sequence!r}")
    try:
        event_id = UUID(event["id"])
    except ValueError as error:
        raise Unreadable(f"the field id is {event['id']!r}: {error}") from error
    return Envelope(
        id=event_id,
        type=event["type"],
        subject=event["subject"],
        sequence=sequence,
        causationtype=str(event.get("causationtype", "")),
        data=event["data"],
        body=event,
    )


def version_one(event: Envelope) -> str:
    """The type without its version, when that is 1: `allocation.allocated`. Raises Unreadable."""
    name, _, version = event.type.rpartition(".v")
    if version != "1":
        raise Unreadable(f"{event.type} has a version that is not known here")
    return name


def text(data: Mapping[str, Any], name: str) -> str:
    """A field that must be a name: 1 to 255 characters, none for control. Raises Unreadable."""
    value = data.get(name)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Unreadable(f"the field data.{name} is {value!r}, no name")
    return value


def number(data: Mapping[str, Any], name: str) -> int:
    """A field that must be a positive whole number. Raises Unreadable."""
    value = data.get(name)
    if type(value) is not int or not 1 <= value < 2**31:
        raise Unreadable(f"the field data.{name} is {value!r}, no positive whole number")
    return value
