"""The page at /docs/events: every message with its fields, its example and its schema."""

import json
from collections.abc import Iterable
from typing import Any

from flask import render_template

from allocation.adapters.rabbitmq import topology
from allocation.contract import asyncapi, registry

Json = dict[str, Any]

_SECTIONS = (
    ("commands", "Commands it accepts", topology.COMMANDS),
    ("events", "Events it publishes", topology.EVENTS),
    ("inbound", "Events of other systems that it accepts", topology.INBOUND),
)


def html() -> str:
    """The page; needs the application's context."""
    document = asyncapi.document()
    channels = document["channels"]
    sections = [
        {
            "id": name,
            "title": title,
            "channel": channels[channel],
            "messages": [_message(document, each) for each in channels[channel]["messages"]],
        }
        for name, title, channel in _SECTIONS
    ]
    queues = [channel for name, channel in channels.items() if name.endswith(".queue")]
    return render_template("events.html", info=document["info"], sections=sections, queues=queues)


def _message(document: Json, name: str) -> Json:
    message = document["components"]["messages"][name]
    return {
        "name": name,
        "summary": message["summary"],
        "description": message["description"],
        "internal": name in registry.FOLLOW_UPS,
        "fields": list(_fields(name)),
        "example": _shown(message["examples"][0]),
        "schema": _shown(document["components"]["schemas"][name]),
    }


def _fields(name: str) -> Iterable[Json]:
    message = registry.MESSAGES[name]
    for field, schema in message.fields.items():
        yield {
            "name": field,
            "kind": _kind(schema),
            "required": field in message.required,
            "description": schema.get("description", ""),
        }


def _kind(schema: Json) -> str:
    """What the value is, in words."""
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    kinds = schema.get("type", "any")
    words = " or ".join([kinds] if isinstance(kinds, str) else kinds)
    return f"{words} ({schema['format']})" if "format" in schema else words


def _shown(value: object) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False)
