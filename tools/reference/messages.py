"""The pages about messages, made from the contract: fields and an example of each."""

from collections.abc import Iterable, Mapping

from allocation.contract.registry import COMMANDS, EVENTS, FOLLOW_UPS, INBOUND, MessageType
from tools.reference import markdown
from tools.reference.markdown import block, fields


def commands() -> str:
    """What callers may ask, and the follow-ups that allocation asks of itself."""
    return markdown.page(
        "Commands",
        "`allocation/contract/commands/`",
        "Each is a Celery task with keyword arguments only ([enqueue](../enqueue.md)); over HTTP"
        " the body has the same fields ([HTTP](http.md)). Other fields are refused.",
        *_each(COMMANDS),
    )


def events() -> str:
    """What allocation publishes."""
    envelope = next(iter(EVENTS.values())).schema
    shared = {name: what for name, what in envelope["properties"].items() if name != "data"}
    shared["type"] = {"type": "string", "description": "Which of the events below it is."}
    return markdown.page(
        "Events",
        "`allocation/contract/events/`",
        "CloudEvents 1.0 in JSON, on the fanout exchange `allocation.events`"
        " ([add a subscriber](../add-a-subscriber.md)). Ignore types and fields that you don't"
        " know.",
        "## What all have",
        fields(envelope | {"properties": shared}),
        *_each(EVENTS),
    )


def inbound() -> str:
    """What other systems publish for allocation."""
    return markdown.page(
        "Events of other systems",
        "`allocation/contract/inbound/`",
        "CloudEvents 1.0 in JSON, sent to the topic exchange `allocation.inbound` with the type as"
        " routing key ([enqueue](../enqueue.md#report-a-fact-by-plain-amqp)).",
        *_each(INBOUND),
    )


def _each(messages: Mapping[str, MessageType]) -> Iterable[str]:
    for name, message in messages.items():
        yield f"## {name}"
        yield message.schema["description"]
        if name in FOLLOW_UPS:
            yield "Allocation sends it to itself: it is not for callers."
        yield fields({"properties": message.fields, "required": message.required})
        yield block(message.example)
