"""The messages described as AsyncAPI 3.0: built from the contract and the topology, without Flask.

`allocation asyncapi` prints it. Schemas and examples are the contract's own.
"""

from collections.abc import Iterable
from functools import cache
from typing import Any

from kombu import Exchange, Queue

from allocation.adapters.rabbitmq import topology
from allocation.contract import codec, inbound_events

Json = dict[str, Any]

INTERNAL = frozenset(codec.FOLLOW_UPS)
"""Follow-ups: commands that the service sends to itself."""

_CLOUD_EVENT = "application/cloudevents+json"
_BINDING = {"bindingVersion": "0.3.0"}
_TASK_ID = "0c9ad1a4-5a52-4d4e-8b0e-3f4f5a1f7e10"

_HEADERS: Json = {
    "id": {
        "type": "string",
        "format": "uuid",
        "description": "The command's id: it takes effect once, however often it is sent."
        " `GET /v1/commands/{id}` tells its outcome.",
    },
    "root_id": {"type": ["string", "null"], "format": "uuid", "description": "What began it all."},
    "parent_id": {"type": ["string", "null"], "format": "uuid", "description": "What caused it."},
    "traceparent": {"description": "The span it comes from, as W3C writes it; else ignored."},
    "eta": {
        "type": ["string", "null"],
        "format": "date-time",
        "description": "When it is due; the broker holds it until then, 8 years at most.",
    },
    "expires": {
        "type": ["string", "null"],
        "format": "date-time",
        "description": "When it is too late.",
    },
    "timelimit": {
        "type": ["array", "null"],
        "description": "Seconds that it may take, hard and soft: each from 1 to 3600, or null.",
        "items": {"type": ["number", "null"], "minimum": 1, "maximum": 3600},
        "minItems": 2,
        "maxItems": 2,
    },
    "retries": {
        "type": "integer",
        "minimum": 0,
        "maximum": 1000,
        "description": "How often it was tried before.",
    },
}

_INTRODUCTION = (
    "Promises each order line stock from a batch. Commands come in as Celery tasks, events of other"
    " systems as CloudEvents; what happened is told as CloudEvents. Everything is told at least"
    " once: whoever reads keeps the ids of what took effect."
)
_TAGS = [
    {"name": "command", "description": "What callers may ask."},
    {"name": "internal", "description": "Sent by the service to itself: not for callers."},
    {"name": "event", "description": "What happened."},
    {"name": "inbound", "description": "What other systems tell."},
]


@cache
def document() -> Json:
    """The whole description; the same object each time."""
    groups = {
        topology.COMMANDS: {name: _command(name) for name in codec.COMMANDS},
        topology.EVENTS: {name: _event(name) for name in codec.EVENT_TYPES.values()},
        topology.INBOUND: {name: _inbound(name) for name in inbound_events.TYPES},
    }
    messages = {name: message for group in groups.values() for name, message in group.items()}
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Allocation",
            "version": "1",
            "description": _INTRODUCTION,
            "license": {"name": "MIT", "url": "https://spdx.org/licenses/MIT.html"},
            "tags": _TAGS,
        },
        "defaultContentType": "application/json",
        "servers": {
            "broker": {
                "host": "127.0.0.1:5672",
                "protocol": "amqp",
                "protocolVersion": "0-9-1",
                "description": "RabbitMQ, wherever `ALLOCATION_BROKER_URL` says.",
            }
        },
        "channels": _channels(groups),
        "operations": _operations(groups),
        "components": {
            "messages": messages,
            "schemas": {name: _schema(name) for name in messages},
        },
    }


def fields(name: str) -> Json:
    """What a sender says in the message `name`, or a reader reads: each field's schema.

    Of a command its keyword arguments, of an event its data.
    """
    properties = codec.schema(name)["properties"]
    return dict(properties if name in codec.COMMANDS else properties["data"]["properties"])


def required(name: str) -> list[str]:
    """Those of `fields` that are always there."""
    schema = codec.schema(name)
    whole = schema if name in codec.COMMANDS else schema["properties"]["data"]
    return list(whole["required"])


def _schema(name: str) -> Json:
    """The contract's schema; what marks it as a document of its own is left out.

    AsyncAPI's own dialect is JSON Schema draft 7; the contract uses nothing that is newer.
    """
    return {
        key: value for key, value in codec.schema(name).items() if key not in ("$schema", "$id")
    }


def _command(name: str) -> Json:
    own = {"task": {"const": name, "description": "The task's name."}}
    return {
        "name": name,
        "title": name.removeprefix("allocation."),
        "summary": codec.schema(name)["description"],
        "description": "A Celery task, protocol 2; any Celery client sends one by `send_task`."
        " Other headers of Celery's may be there and are ignored; canvases are refused.",
        "contentType": "application/json",
        "tags": [{"name": "command"}, *([{"name": "internal"}] if name in INTERNAL else [])],
        "correlationId": {"location": "$message.header#/id"},
        "headers": {
            "type": "object",
            "properties": own | _HEADERS,
            "required": ["task", "id"],
        },
        "payload": {
            "type": "array",
            "description": "[args, kwargs, embed]: keyword arguments only.",
            "items": [
                {"type": "array", "maxItems": 0},
                {"$ref": f"#/components/schemas/{name}"},
                {"type": "object", "description": "Of canvases: empty, or nulls only."},
            ],
            "minItems": 3,
            "additionalItems": False,
        },
        "examples": [
            {
                "headers": {"task": name, "id": _TASK_ID},
                "payload": [[], codec.example(name), {}],
            }
        ],
        "bindings": _message_binding(name),
    }


def _event(name: str) -> Json:
    made = _cloud_event(name, "event")
    return made | {"correlationId": {"location": "$message.payload#/correlationid"}}


def _inbound(name: str) -> Json:
    made = _cloud_event(name, "inbound")
    becomes = inbound_events.TYPES[name].command
    return made | {"description": f"A CloudEvent 1.0. It becomes the command `{becomes}`."}


def _cloud_event(name: str, tag: str) -> Json:
    return {
        "name": name,
        "title": name,
        "summary": codec.schema(name)["description"],
        "description": "A CloudEvent 1.0, structured as one JSON object.",
        "contentType": _CLOUD_EVENT,
        "tags": [{"name": tag}],
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": [{"payload": codec.example(name)}],
        "bindings": _message_binding(name),
    }


def _message_binding(name: str) -> Json:
    return {"amqp": {"contentEncoding": "utf-8", "messageType": name, **_BINDING}}


def _channels(groups: dict[str, dict[str, Json]]) -> Json:
    """One channel for each exchange that is published to, and one for each queue behind them."""
    routing = {
        topology.COMMANDS: (topology.COMMANDS, "Where commands are sent: by this routing key."),
        topology.EVENTS: (None, "Where all that happened is told: bind a queue of your own."),
        topology.INBOUND: ("{type}", "Where other systems tell what they know."),
    }
    made = {}
    for exchange in (
        topology.commands_exchange(),
        topology.events_exchange(),
        topology.inbound_queue().exchange,
    ):
        address, description = routing[exchange.name]
        made[exchange.name] = {
            "address": address,
            "title": f"The {exchange.type} exchange {exchange.name}",
            "description": description,
            "messages": _references(groups[exchange.name]),
            "bindings": {"amqp": _exchange_binding(exchange)},
        }
    made[topology.INBOUND]["parameters"] = {
        "type": {"description": "The event's type.", "enum": list(inbound_events.TYPES)}
    }
    for queue in topology.queues():
        made[f"{queue.name}.queue"] = _queue(queue, groups)
    return made


def _queue(queue: Queue, groups: dict[str, dict[str, Json]]) -> Json:
    """A queue, with the messages that its exchange brings or its owner sets aside."""
    source = topology.dead_queues().get(queue.name)
    exchange = queue.exchange.name
    if source is None:
        dead = queue.queue_arguments["x-dead-letter-routing-key"]
        told = f"Bound to the exchange {exchange}; what can't be taken goes to {dead}."
    else:
        exchange = next(each.exchange.name for each in topology.queues() if each.name == source)
        told = (
            f"The dead letters of {source}: as they came, with the reason in the headers `x-reason`"
            " and `x-error`, or in `x-death` where the broker moved them by itself."
            " `allocation dead` lists, shows, replays and drops them."
        )
    return {
        "address": queue.name,
        "title": f"The queue {queue.name}",
        "description": told,
        "messages": _references(groups[exchange]),
        "bindings": {
            "amqp": {
                "is": "queue",
                "queue": {
                    "name": queue.name,
                    "durable": True,
                    "exclusive": False,
                    "autoDelete": False,
                },
                **_BINDING,
            }
        },
        "x-exchange": queue.exchange.name,
        "x-queue-arguments": dict(queue.queue_arguments),
    }


def _exchange_binding(exchange: Exchange) -> Json:
    described = {
        "name": exchange.name,
        "type": exchange.type,
        "durable": exchange.durable,
        "autoDelete": False,
    }
    return {"is": "routingKey", "exchange": described, **_BINDING}


def _operations(groups: dict[str, dict[str, Json]]) -> Json:
    """What the service does: it receives commands and inbound events, and sends events."""
    return {
        "receiveCommands": _operation(
            "receive", topology.COMMANDS, "Take a command", groups[topology.COMMANDS]
        ),
        "sendEvents": _operation(
            "send", topology.EVENTS, "Tell what happened", groups[topology.EVENTS]
        ),
        "receiveInboundEvents": _operation(
            "receive", topology.INBOUND, "Hear of another system", groups[topology.INBOUND]
        ),
    }


# Of whoever receives, that it acknowledges; of whoever sends, how.
_OPERATION: dict[str, Json] = {
    "receive": {"ack": True},
    "send": {"deliveryMode": 2, "mandatory": True},
}


def _operation(action: str, channel: str, summary: str, messages: Iterable[str]) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [{"$ref": f"#/channels/{channel}/messages/{name}"} for name in messages],
        "bindings": {"amqp": _OPERATION[action] | _BINDING},
    }


def _references(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}
