"""The pages about messages, made from the contract: fields and an example of each."""

from collections.abc import Iterable

from allocation.contract import registry
from allocation.contract.inbound_events import TYPES
from tools.reference import markdown
from tools.reference.markdown import block, fields


def commands() -> str:
    """What callers may ask, and the follow-ups that allocation asks of itself."""
    return markdown.page(
        "Commands",
        "`allocation/contract/commands/`",
        "Each is a Celery task with keyword arguments only ([enqueue](../enqueue.md)); over HTTP"
        " the body has the same fields ([HTTP](http.md)). Other fields are refused.",
        *_each(registry.COMMANDS),
    )


def events() -> str:
    """What allocation tells."""
    envelope = registry.schema(next(iter(registry.EVENTS)))
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
        *_each(registry.EVENTS),
    )


def inbound() -> str:
    """What other systems tell allocation."""
    return markdown.page(
        "Events of other systems",
        "`allocation/contract/inbound/`",
        "CloudEvents 1.0 in JSON, sent to the topic exchange `allocation.inbound` with the type as"
        " routing key ([enqueue](../enqueue.md#tell-what-happened-by-plain-amqp)).",
        *_each(TYPES),
    )


def _each(names: Iterable[str]) -> Iterable[str]:
    for name in names:
        schema = registry.schema(name)
        yield f"## {name}"
        yield schema["description"]
        yield (
            "Allocation sends it to itself: it is not for callers."
            if name in registry.FOLLOW_UPS
            else ""
        )
        yield fields(schema["properties"].get("data", schema))
        yield block(registry.example(name))
