"""Checks that all events of Allocation pass, beyond those of CloudEvents."""

import re
from collections.abc import Collection

from allocation.messaging import cloudevents
from allocation.messaging.cloudevents import Envelope, Unreadable

_TYPE = re.compile(r"allocation\.[a-z0-9_]+\.v[1-9][0-9]*")


def version_one(event: Envelope, wanted: Collection[str]) -> str | None:
    """The type without its version; None if it is not among the `wanted`. Raises Unreadable."""
    if not _TYPE.fullmatch(event.type):
        raise Unreadable(
            f"the field type is {event.type!r}, not of the form allocation.allocated.v1"
        )
    if event.data.get("sku", event.subject) != event.subject:
        raise Unreadable(f"the field data.sku is {event.data['sku']!r}, not the subject")
    return cloudevents.version_one(event, wanted)
