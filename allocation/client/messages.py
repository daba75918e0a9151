"""What Allocation answers and tells: outcomes of commands, and events."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date
from typing import Any, Literal

Status = Literal["pending", "succeeded", "rejected", "failed"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command stands. Allocation has taken it, whatever the status is.

    `rejected`: a rule says no, for `reason`; that is final. `failed`: nobody could decide it yet,
    an operator has to look. `facts` are what holds now, with the fields that were sent:
    `facts["status"]` is `allocated` or `waiting`, and so on.
    """

    id: str
    status: Status
    facts: Mapping[str, Any]
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, as a CloudEvent. The same `id` may come again: it happened once.

    `sequence` numbers the events of a sku without a gap.
    """

    id: str
    type: str
    sku: str
    sequence: int
    time: str
    data: Mapping[str, Any]
    causationid: str | None
    causationtype: str | None
    correlationid: str | None


def event(body: bytes | str) -> Event:
    """The event that a message of the exchange `allocation.events` carries; ValueError if none."""
    try:
        told = json.loads(body)
        return Event(
            id=str(told["id"]),
            type=str(told["type"]),
            sku=str(told["subject"]),
            sequence=int(told["sequence"]),
            time=str(told["time"]),
            data=dict(told["data"]),
            causationid=told.get("causationid"),
            causationtype=told.get("causationtype"),
            correlationid=told.get("correlationid"),
        )
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"this is not an event of Allocation: {error!r}") from error


def plain(fields: Mapping[str, Any]) -> dict[str, Any]:
    """The fields as JSON has them; None says the same as no field."""
    return {
        name: value.isoformat() if isinstance(value, date) else value
        for name, value in fields.items()
        if value is not None
    }
