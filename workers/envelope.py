"""An event as it comes in: CloudEvents 1.0 structured JSON, checked, and read tolerantly."""

import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import date
from typing import Any
from uuid import UUID

from workers import trace_context

_TYPE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+\.v[1-9][0-9]*")
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
# As in the contract; other characters of its pattern harm nobody here.
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")


class Unreadable(Exception):
    """The message is no event that can be understood here; the text says why, `reason` in short."""

    reason = "unreadable"


class UnknownVersion(Unreadable):
    """A newer subscriber may understand it: its dead letter can be replayed once there is one."""

    reason = "unknown version"


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

    @property
    def trace_id(self) -> str | None:
        """The id of the trace that it is a part of; None where it says nothing of one."""
        return trace_context.trace_id(self.body)


def read(body: bytes | str, content_type: str | None) -> Envelope:
    """The event in a message's body; fields that nobody knows are ignored. Raises Unreadable."""
    if str(content_type).partition(";")[0].strip().lower() not in (
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
    if event.get("specversion") != "1.0":
        raise Unreadable(f"the field specversion is {event.get('specversion')!r}, not 1.0")
    for name in ("id", "type", "subject", "causationtype"):
        value = event.get(name)
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise Unreadable(f"the field {name} is {value!r}, no name")
    if not _TYPE.fullmatch(event["type"]):
        raise Unreadable(f"the field type is {event['type']!r}, not like allocation.allocated.v1")
    data = event.get("data")
    if not isinstance(data, dict):
        raise Unreadable(f"the field data is {data!r}")
    if data.get("sku", event["subject"]) != event["subject"]:
        raise Unreadable(f"the field data.sku is {data['sku']!r}, not the subject")
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
        causationtype=event["causationtype"],
        data=data,
        body=event,
    )


def version_one(event: Envelope, wanted: Collection[str]) -> str | None:
    """The type without its version, such as `allocation.allocated`; None when it is not wanted.

    Raises UnknownVersion when it is wanted, and its version is not 1.
    """
    name, _, version = event.type.rpartition(".v")
    if name not in wanted:
        return None
    if version != "1":
        raise UnknownVersion(f"{event.type} has a version that is not known here")
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


def day(data: Mapping[str, Any], name: str) -> date | None:
    """A field that must be there, as a day YYYY-MM-DD or null. Raises Unreadable."""
    value = data.get(name)
    if value is None and name in data:
        return None
    try:
        if isinstance(value, str) and _DAY.fullmatch(value):
            return date.fromisoformat(value)
    except ValueError:
        pass
    raise Unreadable(f"the field data.{name} is {value!r}, no day")
