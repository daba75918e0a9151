"""CloudEvents 1.0 as structured JSON: built, and read from messages that any sender may have made.

`Unreadable` says which field of an event is wrong and how.
"""

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from typing import Any, NoReturn, TypeVar, cast
from uuid import UUID

from kombu.message import Message

from allocation.messaging.dead_letters import LARGEST_BODY
from allocation.messaging.telemetry import trace_context

Json = dict[str, Any]
T = TypeVar("T")

CONTENT_TYPE = "application/cloudevents+json"
_CONTENT_TYPES = (CONTENT_TYPE, "application/json")
_CHARSETS = ("", "charset=utf-8")
_ENCODINGS = ("", "utf-8", "binary")  # kombu calls the encoding binary if there is none
_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")
_NAME = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]{1,255}")
_TYPE = re.compile(r"[a-z0-9_]+(\.[a-z0-9_]+)+\.v[1-9][0-9]*")


class Unreadable(Exception):
    """The message holds no event that can be used; the text says why, `reason` in short."""

    reason = "unreadable"


class UnknownVersion(Unreadable):
    """A newer release may understand it: its dead letter can be replayed once there is one."""

    reason = "unknown version"


def build(
    *,
    id: UUID | str,
    source: str,
    type: str,
    subject: str,
    data: Mapping[str, object],
    time: str | None = None,
    **extensions: object,
) -> Json:
    """An event; `time` has the format of RFC 3339, and defaults to now."""
    return {
        "specversion": "1.0",
        "id": str(id),
        "source": source,
        "type": type,
        "subject": subject,
        "time": time or datetime.now(UTC).isoformat(),
        "datacontenttype": "application/json",
        **extensions,
        "data": data,
    }


def read_strictly(message: Message) -> Json:
    """The event in a message of another system: UTF-8, uncompressed, strict JSON.

    Extensions and data are not checked. Raises Unreadable.
    """
    _, _, parameters = str(message.content_type).lower().partition(";")
    _check_content_type(message.content_type)
    if parameters.strip() not in _CHARSETS:
        raise _wrong_content_type(message.content_type)
    if (message.content_encoding or "").lower() not in _ENCODINGS:
        raise Unreadable(f"the content encoding is {message.content_encoding!r}, not utf-8")
    if message.headers.get("compression") or message.errors:
        raise Unreadable("the body is compressed")
    body = message.body or b""
    if len(body) > LARGEST_BODY:
        raise Unreadable(f"the body has {len(body)} bytes, more than {LARGEST_BODY}")
    try:
        text = body if isinstance(body, str) else bytes(body).decode()
        event = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the body is not JSON: {error}") from error
    return _checked(event, "id", "source", "type")


@dataclass(frozen=True, slots=True)
class Envelope:
    """An event of a sequence: `sequence` counts the events of `subject` from 1, without a gap."""

    id: UUID
    type: str
    subject: str
    sequence: int
    causationtype: str
    data: Mapping[str, Any]
    body: Mapping[str, Any] = field(repr=False)
    """The whole event, with the fields that this release does not know."""
    _parsed: dict[object, Any] = field(default_factory=dict, init=False, repr=False, compare=False)

    def parsed(self, parse: Callable[["Envelope"], T]) -> T:
        """What `parse` makes of the event; it is called once, however often this is asked for."""
        if parse not in self._parsed:
            self._parsed[parse] = parse(self)
        return cast(T, self._parsed[parse])

    @property
    def trace_id(self) -> str | None:
        """The id of the event's trace; None if it has none."""
        return trace_context.event_trace_id(self.body)

    def log_fields(self) -> dict[str, str | int]:
        """The fields by which a subscriber's log line names the event."""
        known = {
            "event_id": str(self.id),
            "type": self.type,
            "sku": self.subject,
            "sequence": self.sequence,
            "command_id": self.body.get("causationid"),
            "command": self.causationtype,
            "orderid": self.data.get("orderid"),
            "trace_id": self.trace_id,
        }
        return {name: value for name, value in known.items() if isinstance(value, (str, int))}


def read(body: bytes | str, content_type: str | None) -> Envelope:
    """The event in a message's body; unknown fields are ignored. Raises Unreadable."""
    _check_content_type(content_type)
    try:
        event = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"the body is not JSON: {error}") from error
    return from_json(event)


def from_json(event: object) -> Envelope:
    """The event in a decoded body. Raises Unreadable."""
    known = _checked(event, "id", "type", "subject", "causationtype")
    if not _TYPE.fullmatch(known["type"]):
        raise Unreadable(
            f"the field type is {_shown(known, 'type')}, not of the form order.paid.v1"
        )
    sequence = known.get("sequence")
    if type(sequence) is not int or not 1 <= sequence < 2**63:
        raise Unreadable(f"the field sequence is {_shown(known, 'sequence')}")
    try:
        event_id = UUID(known["id"])
    except ValueError as error:
        raise Unreadable(f"the field id is {_shown(known, 'id')}: {error}") from error
    return Envelope(
        id=event_id,
        type=known["type"],
        subject=known["subject"],
        sequence=sequence,
        causationtype=known["causationtype"],
        data=known["data"],
        body=known,
    )


def version_one(event: Envelope, wanted: Collection[str]) -> str | None:
    """The type without its version, such as `order.paid`; None if it is not among the `wanted`.

    Raises UnknownVersion if it is wanted, and its version is not 1.
    """
    name, _, version = event.type.rpartition(".v")
    if name not in wanted:
        return None
    if version != "1":
        raise UnknownVersion(f"{event.type} has an unknown version")
    return name


def text(data: Mapping[str, Any], name: str) -> str:
    """A field that must be 1 to 255 characters, no control characters. Raises Unreadable."""
    value = data.get(name)
    if not isinstance(value, str) or not _NAME.fullmatch(value):
        raise Unreadable(f"the field data.{name} is {value!r}, not a name")
    return value


def number(data: Mapping[str, Any], name: str) -> int:
    """A field that must be a positive whole number. Raises Unreadable."""
    value = data.get(name)
    if type(value) is not int or not 1 <= value < 2**31:
        raise Unreadable(f"the field data.{name} is {value!r}, not a positive whole number")
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
    raise Unreadable(f"the field data.{name} is {value!r}, not a day")


def _check_content_type(content_type: object) -> None:
    if str(content_type).partition(";")[0].strip().lower() not in _CONTENT_TYPES:
        raise _wrong_content_type(content_type)


def _wrong_content_type(content_type: object) -> Unreadable:
    return Unreadable(f"the content type is {content_type!r}, not {CONTENT_TYPE}")


def _checked(event: object, *names: str) -> Json:
    """The event, if its fields called `names` are text and its data are an object."""
    if not isinstance(event, dict):
        raise Unreadable("the body is not a JSON object")
    if event.get("specversion") != "1.0":
        raise Unreadable(f"the field specversion is {_shown(event, 'specversion')}, not 1.0")
    for name in names:
        value = event.get(name)
        if not isinstance(value, str) or not _NAME.fullmatch(value):
            raise Unreadable(
                f"the field {name} is {_shown(event, name)}, not a text of 1 to 255 characters"
            )
    if not isinstance(event.get("data"), dict):
        raise Unreadable(f"the field data is {_shown(event, 'data')}, not a JSON object")
    return event


def _shown(event: Json, name: str) -> str:
    return ascii(event[name])[:300] if name in event else "missing"


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
