"""Allocation for other Python services: commands over HTTP or AMQP, their outcomes, the events.

It needs nothing of the server's libraries, and for HTTP no library at all.
"""

from typing import TYPE_CHECKING, Any

from allocation.client.errors import ClientError, Invalid, Reused, Unauthorized, Unreachable
from allocation.client.http import HttpClient
from allocation.client.messages import Event, Outcome

if TYPE_CHECKING:
    from allocation.client.amqp import AmqpClient
    from allocation.client.listening import listen

__all__ = [
    "AmqpClient",
    "ClientError",
    "Event",
    "HttpClient",
    "Invalid",
    "Outcome",
    "Reused",
    "Unauthorized",
    "Unreachable",
    "listen",
]


def __getattr__(name: str) -> Any:
    """What speaks AMQP, once it is asked for: HTTP alone loads no kombu."""
    if name == "AmqpClient":
        from allocation.client.amqp import AmqpClient

        return AmqpClient
    if name == "listen":
        from allocation.client.listening import listen

        return listen
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
