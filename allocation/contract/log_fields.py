"""The fields by which a log line names the command that it is about."""

from collections.abc import Mapping

from allocation.contract import codec
from allocation.messaging.telemetry import trace_context
from allocation.service_layer.unit_of_work import Message

_NAMES = ("orderid", "sku", "batchref")


def of_message(message: Message) -> dict[str, str]:
    """What a line about the command names it by."""
    return {
        "command_id": str(message.id),
        "command": codec.command_name(message.command),
        **of_body({name: getattr(message.command, name, None) for name in _NAMES}),
        "trace_id": trace_context.trace_id(message.traceparent, message.correlation_id),
    }


def of_body(fields: Mapping[str, object]) -> dict[str, str]:
    """Those of a command's fields that say what it is about, cut to a readable length."""
    return {name: str(fields[name])[:100] for name in _NAMES if fields.get(name) is not None}
