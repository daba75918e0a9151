"""The messages described as AsyncAPI 3.0: built from the registry and the topology, without Flask.

`allocation asyncapi` prints it.
"""

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any

from kombu import Queue

from allocation.adapters.rabbitmq import topology
from allocation.contract import inbound_events
from allocation.contract.registry import (
    COMMANDS,
    EVENTS,
    FOLLOW_UPS,
    INBOUND,
    MESSAGES,
    MessageType,
)

Json = dict[str, Any]

_BINDING = {"bindingVersion": "0.3.0"}
_TASK_ID = "0c9ad1a4-5a52-4d4e-8b0e-3f4f5a1f7e10"

_HEADERS: Json = {
    "id": {
        "type": "string",
        "format": "uuid",
        "description": "The command's id. A command that is sent again with the same id takes"
        " effect once."
        " `GET /v1/commands/{id}` returns its outcome.",
    },
    "root_id": {
        "type": ["string", "null"],
        "format": "uuid",
        "description": "The id of the first message in the chain of causes.",
    },
    "parent_id": {
        "type": ["string", "null"],
        "format": "uuid",
        "description": "The id of the message that caused it.",
    },
    "traceparent": {
        "description": "The span that sent the command, in W3C Trace Context format;"
        " a malformed value is ignored."
    },
    "eta": {
        "type": ["string", "null"],
        "format": "date-time",
        "description": "The time at which the command is due; the broker holds it until then, at"
        " most 8 years.",
    },
    "expires": {
        "type": ["string", "null"],
        "format": "date-time",
        "description": "The time after which the command is dropped.",
    },
    "timelimit": {
        "type": ["array", "null"],
        "description": "Hard and soft time limit in seconds: each from 1 to 3600, or null.",
        "items": {"type": ["number", "null"], "minimum": 1, "maximum": 3600},
        "minItems": 2,
        "maxItems": 2,
    },
    "retries": {
        "type": "integer",
        "minimum": 0,
        "maximum": 1000,
        "description": "Number of previous attempts.",
    },
}

_INTRODUCTION = (
    "Promises each order line stock from a batch. Commands come in as Celery tasks, events of other"
    " systems as CloudEvents. The service publishes its own events as CloudEvents. Delivery is at"
    " least once: consumers deduplicate by the message's id."
)
_TAGS = [
    {"name": "command", "description": "Commands to the service."},
    {
        "name": "internal",
        "description": "Commands that the service sends to itself; clients must not send them.",
    },
    {"name": "event", "description": "Events that the service publishes."},
    {"name": "inbound", "description": "Events of other systems, which become commands."},
]


_BY_EXCHANGE: Mapping[str, Iterable[str]] = {
    topology.COMMANDS: COMMANDS,
    topology.EVENTS: EVENTS,
    topology.INBOUND: INBOUND,
}
"""By exchange: the names of the messages that are published there."""


@cache
def document() -> Json:
    """The whole description; the same object each time."""
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
                "description": "RabbitMQ; `ALLOCATION_BROKER_URL` sets the address.",
            }
        },
        "channels": _exchanges()
        | {f"{each.name}.queue": _queue(each) for each in topology.queues()},
        "operations": {
            "receiveCommands": _receives(topology.COMMANDS, "Receive commands"),
            "sendEvents": _sends(topology.EVENTS, "Publish events"),
            "receiveInboundEvents": _receives(topology.INBOUND, "Receive events of other systems"),
        },
        "components": {
            "messages": {name: _message(name, each) for name, each in MESSAGES.items()},
            "schemas": {name: _schema(each) for name, each in MESSAGES.items()},
        },
    }


def _schema(message: MessageType) -> Json:
    """The contract's schema, without what marks it as a document of its own.

    AsyncAPI's own dialect is JSON Schema draft 7; the contract uses nothing that is newer.
    """
    return {name: of for name, of in message.schema.items() if name not in ("$schema", "$id")}


def _message(name: str, message: MessageType) -> Json:
    own = _command(name) if name in COMMANDS else _cloud_event(name)
    return {
        "name": name,
        "summary": message.schema["description"],
        "bindings": {"amqp": {"contentEncoding": "utf-8", "messageType": name, **_BINDING}},
    } | own


def _command(name: str) -> Json:
    own = {"task": {"const": name, "description": "The task's name."}}
    return {
        "title": name.removeprefix("allocation."),
        "description": "A Celery task, protocol 2; any Celery client sends one by `send_task`."
        " Other headers of Celery are ignored; a message of a canvas is refused.",
        "contentType": "application/json",
        "tags": [{"name": "command"}, *([{"name": "internal"}] if name in FOLLOW_UPS else [])],
        "correlationId": {"location": "$message.header#/id"},
        "headers": {"type": "object", "properties": own | _HEADERS, "required": ["task", "id"]},
        "payload": {
            "type": "array",
            "description": "[args, kwargs, embed]; only keyword arguments are accepted.",
            "items": [
                {"type": "array", "maxItems": 0},
                {"$ref": f"#/components/schemas/{name}"},
                {
                    "type": "object",
                    "description": "Celery uses it for canvases: must be empty, or"
                    " have only nulls.",
                },
            ],
            "minItems": 3,
            "additionalItems": False,
        },
        "examples": [
            {
                "headers": {"task": name, "id": _TASK_ID},
                "payload": [[], COMMANDS[name].example, {}],
            }
        ],
    }


def _cloud_event(name: str) -> Json:
    made: Json = {
        "title": name,
        "contentType": "application/cloudevents+json",
        "payload": {"$ref": f"#/components/schemas/{name}"},
        "examples": [{"payload": MESSAGES[name].example}],
    }
    if name in EVENTS:
        return made | {
            "description": "A CloudEvent 1.0, structured as one JSON object.",
            "tags": [{"name": "event"}],
            "correlationId": {"location": "$message.payload#/correlationid"},
        }
    becomes = inbound_events.TYPES[name].command
    return made | {
        "description": f"A CloudEvent 1.0. It becomes the command `{becomes}`.",
        "tags": [{"name": "inbound"}],
    }


def _exchanges() -> Json:
    """One channel for each exchange that is published to."""
    inbound = topology.inbound_queue().exchange
    types = {"type": {"description": "The event's type.", "enum": list(inbound_events.TYPES)}}
    channels = {}
    for exchange, address, description in (
        (
            topology.commands_exchange(),
            topology.COMMANDS,
            "Commands are published here with this routing key.",
        ),
        (
            topology.events_exchange(),
            None,
            "The service publishes its events here. Bind a queue of your own.",
        ),
        (inbound, "{type}", "Other systems publish their events here."),
    ):
        described = {
            "name": exchange.name,
            "type": exchange.type,
            "durable": exchange.durable,
            "autoDelete": False,
        }
        channels[exchange.name] = {
            "address": address,
            "title": f"The {exchange.type} exchange {exchange.name}",
            "description": description,
            "messages": _references(_BY_EXCHANGE[exchange.name]),
            "bindings": {"amqp": {"is": "routingKey", "exchange": described, **_BINDING}},
        }
    channels[inbound.name]["parameters"] = types
    return channels


def _queue(queue: Queue) -> Json:
    """The channel of a queue, with the messages of its exchange, or the dead letters of another."""
    exchange = queue.exchange.name
    source = topology.dead_queues().get(queue.name)
    if source is None:
        dead = queue.queue_arguments["x-dead-letter-routing-key"]
        description = (
            f"Bound to the exchange {exchange}; messages that can't be processed go to {dead}."
        )
    else:
        exchange = next(each.exchange.name for each in topology.queues() if each.name == source)
        description = (
            f"The dead letters of {source}: each is a published message, with the reason in"
            " the headers `x-reason` and `x-error`, or in `x-death` if the broker moved them."
            " `allocation dead` lists, shows, replays and drops them."
        )
    described = {"name": queue.name, "durable": True, "exclusive": False, "autoDelete": False}
    return {
        "address": queue.name,
        "title": f"The queue {queue.name}",
        "description": description,
        "messages": _references(_BY_EXCHANGE[exchange]),
        "bindings": {"amqp": {"is": "queue", "queue": described, **_BINDING}},
        "x-exchange": queue.exchange.name,
        "x-queue-arguments": dict(queue.queue_arguments),
    }


def _receives(channel: str, summary: str) -> Json:
    return _operation("receive", channel, summary, {"ack": True})


def _sends(channel: str, summary: str) -> Json:
    return _operation("send", channel, summary, {"deliveryMode": 2, "mandatory": True})


def _operation(action: str, channel: str, summary: str, binding: Json) -> Json:
    return {
        "action": action,
        "channel": {"$ref": f"#/channels/{channel}"},
        "summary": summary,
        "messages": [
            {"$ref": f"#/channels/{channel}/messages/{name}"} for name in _BY_EXCHANGE[channel]
        ],
        "bindings": {"amqp": binding | _BINDING},
    }


def _references(names: Iterable[str]) -> Json:
    return {name: {"$ref": f"#/components/messages/{name}"} for name in names}
